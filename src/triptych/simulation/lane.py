"""A lane: a scheduler under the virtual clock. It asks for a batch, asks what it costs, moves the clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from heapq import heappush
from math import ceil, sqrt
from typing import Any, Protocol

from triptych.policy import Batch, Request, Scheduler, Status
from triptych.record.columns import BATCH_ROW, packer
from triptych.simulation.recorder import Recorder

Event = tuple[float, int, Callable[[float, Any], None], Any]
"""(time, order, action, argument): `action(time, argument)` is called then."""

_pack_row = packer(BATCH_ROW)


class Cost(Protocol):
    """How long batches take (`cost.IterationCost` is one)."""

    def run(self, batch: Batch) -> tuple[float, float, int]:
        """(seconds of one iteration, by how much each further one is longer, for how many that holds)."""

    def stages(self, batch: Batch) -> list[float]:
        """Seconds of one iteration in each pipeline stage."""

    def lockstep(self, batches: Sequence[Batch | None]) -> tuple[float, float, int]:
        """As `run`, for the batches of data ranks that go in step."""


class Driver(Protocol):
    """What a lane needs of the simulator around it."""

    jump: bool
    recorder: Recorder
    events: list[Event]
    """Heap of what is to happen."""
    order: Iterator[int]
    """Numbers events, so that equal times keep the order in which they were foreseen."""

    def serve(self, lane: Lane, now: float) -> None:
        """Sends on what has gathered in the scheduler's `leaving` and `reserved`."""

    def ended(self, request: Request, now: float) -> None:
        """A request is done with, in whatever way."""

    def drop(self, request: Request, status: Status, now: float) -> None:
        """A request's client has given up."""


class Lane:
    """One scheduler of an instance, and the log of its batches.

    Args:
        driver: the simulator.
        scheduler: forms the batches.
        instance: number of the instance.
        number: of this lane over the whole run.
    """

    __slots__ = (
        *("batch", "driver", "instance", "kv_used", "log", "number", "queued", "recorder", "runner"),
        "scheduler",
    )

    def __init__(self, driver: Driver, scheduler: Scheduler, instance: int, number: int) -> None:
        self.driver = driver
        self.recorder = driver.recorder
        self.scheduler = scheduler
        self.instance = instance
        self.number = number
        self.runner: Runner
        self.batch: Batch | None = None
        self.log = bytearray()
        """Rows of `record.columns.BATCH_ROW`."""
        self.kv_used = 0
        self.queued = 0

    def open(self, now: float) -> Batch | None:
        """Forms the next batch and notes whose work begins with it."""
        scheduler = self.scheduler
        self.kv_used = scheduler.kv.blocks - scheduler.kv.free
        self.queued = len(scheduler.waiting) + len(scheduler.unencoded) + len(scheduler.incoming)
        self.batch = batch = scheduler.schedule()
        if scheduler.preempted:
            self._note_preempted()
        if scheduler.leaving or scheduler.reserved:
            self.driver.serve(self, now)
        if batch is None:
            return None
        prefill_start = self.recorder.prefill_start
        for chunk in batch.chunks:
            index = chunk.request.id
            if not prefill_start[index] >= 0:
                prefill_start[index] = now
                self.recorder.prefill_instance[index] = self.instance
        if batch.images or batch.encoded:
            self._note_encoding(batch, now)
        return batch

    def close(self, now: float, start: float, first: float, growth: float, iterations: int) -> None:
        """Ends a run of the batch: logs it, moves its requests on and notes what they got."""
        batch, scheduler, recorder = self.batch, self.scheduler, self.recorder
        if batch is None:
            return
        self.batch = None
        patches = patch_pairs = 0
        if batch.images:
            patches = sum(image.patches for _, image in batch.images)
            patch_pairs = sum(image.patches * image.patches for _, image in batch.images)
        self.log += _pack_row(
            start,
            first,
            growth,
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
            self.kv_used,
            self.queued,
            len(batch.chunks),
        )
        prefilled, finished = scheduler.complete(batch, iterations)
        for request in prefilled:
            index = request.id
            recorder.token_time[index] = now
            if request.generated_tokens == 1:
                recorder.first_token[index] = now
                if request.joined_step >= 0:
                    recorder.decode_ready[index] = now
                    recorder.decode_instance[index] = self.instance
        for request in finished:
            if request.joined_step >= 0:
                recorder.close_span(request, self.number, scheduler.decodes.step)
            recorder.close(request, now)
            self.driver.ended(request, now)
        for request in batch.encoded:
            recorder.encode_end[request.id] = now
            if scheduler.prefills_here:
                recorder.prefill_ready[request.id] = now
        if scheduler.leaving:
            self.driver.serve(self, now)

    def abort(self, request: Request, status: Status, now: float) -> None:
        """Drops a request that is here; no batch may be running."""
        decoding = request in self.scheduler.decodes.members
        self.scheduler.abort(request, status)
        if decoding:
            self.recorder.close_span(request, self.number, self.scheduler.decodes.step)
        self.recorder.close(request, now)

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


class Runner:
    """Runs the batches of one lane one after the other."""

    __slots__ = (
        *("_action", "_events", "_order", "_poked", "cost", "driver", "end", "first", "gone", "growth"),
        *("iterations", "lanes", "start"),
    )

    def __init__(self, driver: Driver, lanes: list[Lane], cost: Cost) -> None:
        self.driver = driver
        self.lanes = lanes
        self.cost = cost
        for lane in lanes:
            lane.runner = self
        self.gone: list[tuple[Request, Status]] = []
        """Given up by their clients while the batch is running; they end when it does."""
        self.iterations = 0
        """Planned for the present run; 0 when nothing runs, -1 between two runs."""
        self.start = self.end = self.first = self.growth = 0.0
        self._action = self._on_end
        self._events = driver.events
        self._order = driver.order
        self._poked = False
        """Whether something has changed between two runs, after the batch was formed."""

    def poke(self, now: float) -> None:
        """Something has changed: begins if idle, otherwise runs no further than the coming boundary."""
        if self.iterations == 0:
            self.begin(now)
        elif self.iterations < 0:
            self._poked = True
        elif self.iterations > 1:
            steps = self._steps_by(now)
            if steps < self.iterations:
                self._run_for(steps)

    def begin(self, now: float) -> None:
        """Starts the next run of a batch, if there is one."""
        self.iterations = -1
        self._poked = False
        iterations = self._form(now)
        if iterations == 0:
            self.iterations = 0
            if self._poked:
                self.begin(now)
            return
        self.start = now
        self._run_for(1 if self._poked or not self.driver.jump else iterations)

    def _form(self, now: float) -> int:
        """Forms what to run next, sets `first` and `growth`, and returns for how many iterations they hold."""
        batch = self.lanes[0].open(now)
        if batch is None:
            return 0
        self.first, self.growth, valid = self.cost.run(batch)
        return batch.repeat if batch.repeat < valid else valid

    def _run_for(self, iterations: int) -> None:
        """Plans how many iterations the present run has."""
        self.iterations = iterations
        self.end = end = (
            self.start + iterations * self.first + self.growth * (iterations * (iterations - 1) // 2)
        )
        event: Event = (end, next(self._order), self._action, None)
        heappush(self._events, event)

    def _on_end(self, now: float, _: None) -> None:
        iterations = self.iterations
        if now != self.end or iterations < 1:
            return  # the run was cut short since this was expected
        self.iterations = -1
        for lane in self.lanes:
            lane.close(now, self.start, self.first, self.growth, iterations)
        if self.gone:
            gone, self.gone = self.gone, []
            for request, status in gone:
                self.driver.drop(request, status, now)
        self.begin(now)

    def _steps_by(self, now: float) -> int:
        """The iteration at whose end `now` has come: the smallest j with j*first + growth*j(j-1)/2 >= it."""
        passed, half = now - self.start, 0.5 * self.growth
        if passed <= self.first:
            return 1
        linear = self.first - half
        if half > 0:
            steps = ceil((sqrt(linear * linear + 4 * half * passed) - linear) / (2 * half))
        else:
            steps = ceil(passed / self.first)
        while steps > 1 and (steps - 1) * (linear + half * (steps - 1)) >= passed:
            steps -= 1  # rounding
        return steps


class PipelineRunner(Runner):
    """Runs the batches of one lane through pipeline stages that it shares with the instance's other lanes.

    A batch enters a stage when the batch before it has left, whichever lane that came from. As in vLLM V0
    there is a lane (its virtual engine) for each stage, and a request stays on its lane.
    """

    __slots__ = ("free_at",)

    def __init__(self, driver: Driver, lanes: list[Lane], cost: Cost, free_at: list[float]) -> None:
        super().__init__(driver, lanes, cost)
        self.free_at = free_at
        """When each stage is free, one list for all lanes of the instance."""

    def _form(self, now: float) -> int:
        batch = self.lanes[0].open(now)
        if batch is None:
            return 0
        leaves = now
        for stage, seconds in enumerate(self.cost.stages(batch)):
            leaves = max(leaves, self.free_at[stage]) + seconds
            self.free_at[stage] = leaves
        self.first, self.growth = leaves - now, 0.0
        return 1


class LockstepRunner(Runner):
    """Runs the data ranks of a mixture-of-experts instance in step: one iteration of all at a time."""

    __slots__ = ()

    def _form(self, now: float) -> int:
        batches = [lane.open(now) for lane in self.lanes]
        running = [batch.repeat for batch in batches if batch is not None]
        if not running:
            return 0
        self.first, self.growth, valid = self.cost.lockstep(batches)
        return min(*running, valid)
