"""A lane: a scheduler under the virtual clock. It asks for a batch, asks what it costs, moves the clock."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from typing import Protocol

from triptych.policy import Batch, Request, Scheduler, Status
from triptych.record.columns import BATCH_ROW, packer
from triptych.simulation.recorder import Recorder
from triptych.simulation.runner import Clock, Runner

_pack_row = packer(BATCH_ROW)


class Cost(Protocol):
    """How long batches take (`cost.IterationCost` is one)."""

    def run(self, batch: Batch) -> tuple[float, float, int]:
        """(seconds of one iteration, by how much each further one is longer, for how many that holds)."""

    def stages(self, batch: Batch) -> list[float]:
        """Seconds of one iteration in each pipeline stage."""

    def lockstep(self, batches: Sequence[Batch | None]) -> tuple[float, float, int]:
        """As `run`, for the batches of data ranks that go in step."""


class Driver(Clock, Protocol):
    """What a lane needs of the simulator around it."""

    recorder: Recorder

    def serve(self, lane: Lane, now: float) -> None:
        """Sends on what has gathered in the scheduler's `leaving` and `reserved`."""

    def ended(self, request: Request, now: float) -> None:
        """A request is done with, in whatever way."""


class Lane(Runner):
    """One scheduler of an instance under the clock, and the log of its batches.

    Args:
        driver: the simulator.
        scheduler: forms the batches.
        cost: how long they take.
        instance: number of the instance.
        number: of this lane over the whole run.
    """

    __slots__ = (
        *("_free", "_queued", "batch", "cost", "driver", "instance", "log", "number", "recorder", "runner"),
        "scheduler",
    )

    def __init__(
        self, driver: Driver, scheduler: Scheduler, cost: Cost, *, instance: int, number: int
    ) -> None:
        super().__init__(driver)
        self.driver = driver
        self.recorder = driver.recorder
        self.scheduler = scheduler
        self.cost = cost
        self.instance = instance
        self.number = number
        self.runner: Runner = self
        """What runs this lane: itself, or the group that it goes in step with."""
        self.batch: Batch | None = None
        self.log = bytearray()
        """Rows of `record.columns.BATCH_ROW`."""
        self._free = self._queued = 0

    def form(self, now: float) -> int:
        batch = self.open(now)
        if batch is None:
            return 0
        self.first, self.growth, valid = self.cost.run(batch)
        return batch.repeat if batch.repeat < valid else valid

    def open(self, now: float) -> Batch | None:
        """Asks for the next batch and notes whose work begins with it."""
        scheduler = self.scheduler
        self._queued = len(scheduler.waiting) + len(scheduler.unencoded) + len(scheduler.incoming)
        self.batch = batch = scheduler.schedule()
        self._free = scheduler.kv.free
        if scheduler.preempted:
            self._note_preempted()
        if scheduler.leaving or scheduler.reserved:
            self.driver.serve(self, now)
        if batch is None:
            return None
        prefill_start = self.recorder.prefill_start
        for request, _, _, _ in batch.chunks:
            if not prefill_start[request.id] >= 0:
                prefill_start[request.id] = now
                self.recorder.prefill_instance[request.id] = self.instance
        if batch.images or batch.encoded:
            self._note_encoding(batch, now)
        return batch

    def close(self, now: float, iterations: int) -> None:
        """Logs the run of the batch, moves its requests on and notes what they got."""
        batch, scheduler = self.batch, self.scheduler
        if batch is None:
            return
        self.batch = None
        patches = patch_pairs = 0
        if batch.images:
            patches = sum(image.patches for _, image in batch.images)
            patch_pairs = sum(image.patches * image.patches for _, image in batch.images)
        prefilled, finished = scheduler.complete(batch, iterations)
        kv_used = scheduler.kv.blocks - self._free
        drawn = scheduler.decodes.drawn if batch.decodes else 0
        self.log += _pack_row(
            self.start,
            self.first,
            self.growth,
            iterations,
            batch.prefill_tokens,
            batch.prefill_pairs,
            batch.prefill_kv,
            batch.sampled,
            batch.decodes,
            batch.decode_kv,
            batch.padding,
            len(batch.images),
            patches,
            patch_pairs,
            kv_used,
            kv_used + drawn,
            self._queued,
            len(batch.chunks),
        )
        for request in prefilled:
            self._note_prefilled(request, now)
        for request in finished:
            if request.joined_step >= 0:
                self.recorder.close_span(request, self.number, scheduler.decodes.step)
            self.recorder.close(request, now)
            self.driver.ended(request, now)
        if batch.encoded:
            self._note_encoded(batch, now)
        if scheduler.leaving:
            self.driver.serve(self, now)

    def abort(self, request: Request, status: Status, now: float) -> None:
        """Drops a request that is here; no batch may be running."""
        decoding = request in self.scheduler.decodes.members
        self.scheduler.abort(request, status)
        if decoding:
            self.recorder.close_span(request, self.number, self.scheduler.decodes.step)
        self.recorder.close(request, now)

    def _note_prefilled(self, request: Request, now: float) -> None:
        recorder, index = self.recorder, request.id
        recorder.token_time[index] = now
        if request.generated_tokens == 1:
            recorder.first_token[index] = now
            if request.joined_step >= 0:
                recorder.decode_ready[index] = now
                recorder.decode_instance[index] = self.instance

    def _note_preempted(self) -> None:
        for request in self.scheduler.preempted:
            if request.joined_step >= 0:
                self.recorder.close_span(request, self.number, self.scheduler.decodes.step)

    def _note_encoding(self, batch: Batch, now: float) -> None:
        recorder = self.recorder
        for request in [*(request for request, _ in batch.images), *batch.encoded]:
            if not recorder.encode_start[request.id] >= 0:
                recorder.encode_start[request.id] = now
                recorder.encode_instance[request.id] = self.instance

    def _note_encoded(self, batch: Batch, now: float) -> None:
        recorder = self.recorder
        for request in batch.encoded:
            if isnan(recorder.encode_end[request.id]):  # a second time is after a preemption
                recorder.encode_end[request.id] = now
                if self.scheduler.prefills_here:
                    recorder.prefill_ready[request.id] = now


class PipelineLane(Lane):
    """A lane whose batches go through pipeline stages that it shares with the instance's other lanes.

    A batch enters a stage when the batch before it has left, whichever lane that came from. As in vLLM V0
    there is a lane (its virtual engine) for each stage, and a request stays on its lane.

    Args:
        free_at: when each stage is free, one list for all lanes of the instance.
    """

    __slots__ = ("free_at",)

    def __init__(
        self,
        driver: Driver,
        scheduler: Scheduler,
        cost: Cost,
        *,
        instance: int,
        number: int,
        free_at: list[float],
    ) -> None:
        super().__init__(driver, scheduler, cost, instance=instance, number=number)
        self.free_at = free_at

    def form(self, now: float) -> int:
        batch = self.open(now)
        if batch is None:
            return 0
        leaves = now
        for stage, seconds in enumerate(self.cost.stages(batch)):
            leaves = max(leaves, self.free_at[stage]) + seconds
            self.free_at[stage] = leaves
        self.first, self.growth = leaves - now, 0.0
        return 1


class Lockstep(Runner):
    """Runs the data ranks of a mixture-of-experts instance in step: one iteration of all at a time.

    Args:
        lanes: the ranks.
    """

    __slots__ = ("cost", "lanes")

    def __init__(self, driver: Driver, lanes: list[Lane], cost: Cost) -> None:
        super().__init__(driver)
        self.lanes = lanes
        self.cost = cost
        for lane in lanes:
            lane.runner = self

    def form(self, now: float) -> int:
        batches = [lane.open(now) for lane in self.lanes]
        running = [batch.repeat for batch in batches if batch is not None]
        if not running:
            return 0
        self.first, self.growth, valid = self.cost.lockstep(batches)
        return min(*running, valid)

    def close(self, now: float, iterations: int) -> None:
        for lane in self.lanes:
            lane.start, lane.first, lane.growth = self.start, self.first, self.growth
            lane.close(now, iterations)
