"""A lane: a scheduler under the virtual clock. It asks for a batch, asks what it costs, moves the clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from triptych.policy import Batch, Request, Scheduler, Status
from triptych.record.journal import Journal
from triptych.record.recorder import Recorder
from triptych.simulation.runner import Clock, Runner


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
    """One scheduler of an instance under the clock.

    Args:
        driver: the simulator.
        scheduler: forms the batches.
        cost: how long they take.
        instance: number of the instance.
        number: of this lane over the whole run.
        lookahead: whether a batch is formed when the one before it begins.
    """

    __slots__ = (
        *("_later", "_lookahead", "batch", "cost", "driver", "instance", "journal", "number"),
        *("runner", "scheduler"),
    )

    def __init__(
        self,
        driver: Driver,
        scheduler: Scheduler,
        cost: Cost,
        *,
        instance: int,
        number: int,
        lookahead: bool = False,
    ) -> None:
        super().__init__(driver, number)
        self.driver = driver
        self.journal = Journal(driver.recorder, scheduler, instance=instance, number=number)
        self.scheduler = scheduler
        self.cost = cost
        self.instance = instance
        self.number = number
        self.runner: Runner = self
        """What runs this lane: itself, or the group that it goes in step with."""
        self.batch: Batch | None = None
        self._lookahead = lookahead
        self._later: list[tuple[Request, bool]] = []
        """Came while a batch was running, when the next one had been formed already."""

    def add(self, request: Request, *, from_elsewhere: bool = False) -> None:
        """Hands a request to the scheduler, as soon as the scheduler may see it."""
        if self._lookahead and self.runner.iterations != 0:
            self._later.append((request, from_elsewhere))
        else:
            self.scheduler.add(request, from_elsewhere=from_elsewhere)

    @property
    def requests(self) -> int:
        """Requests that the lane is responsible for."""
        return len(self.scheduler) + len(self._later)

    def gave_up(self, request: Request, status: Status, now: float) -> None:
        """Notes that the client of a request waits no longer."""
        decodes = self.batch is not None and self.batch.decodes > 0
        self.journal.gave_up(request, status, now, self.runner.passed(now) if decodes else 0)

    def abort(self, request: Request, status: Status, now: float) -> None:
        """Drops a request, whether the scheduler has seen it or not; not while a batch runs."""
        for place, (late, from_elsewhere) in enumerate(self._later):
            if late is request:
                del self._later[place]
                self.scheduler.add(request, from_elsewhere=from_elsewhere)
                break
        self.journal.abort(request, status, now)

    def form(self, now: float) -> int:
        batch = self.open(now)
        if batch is None:
            return 0
        self.first, self.growth, valid = self.cost.run(batch)
        return batch.repeat if batch.repeat < valid else valid

    def open(self, now: float) -> Batch | None:
        """Asks for the next batch."""
        scheduler, journal = self.scheduler, self.journal
        self.batch = batch = scheduler.schedule()
        journal.formed(batch, now)
        if self._later:
            later, self._later = self._later, []
            for request, from_elsewhere in later:
                scheduler.add(request, from_elsewhere=from_elsewhere)
            self.runner.poke(now)
        if scheduler.leaving or scheduler.reserved:
            self.driver.serve(self, now)
        return batch

    def close(self, now: float, iterations: int) -> None:
        """Moves the requests of the batch on, and notes what they got."""
        batch, scheduler = self.batch, self.scheduler
        if batch is None:
            return
        self.batch = None
        prefilled, finished = scheduler.complete(batch, iterations)
        self.journal.ran(
            batch,
            iterations,
            start=self.start,
            first=self.first,
            growth=self.growth,
            now=now,
            prefilled=prefilled,
            finished=finished,
        )
        for request in finished:
            self.driver.ended(request, now)
        if scheduler.leaving:
            self.driver.serve(self, now)


class Lockstep(Runner):
    """Runs the data ranks of a mixture-of-experts instance in step: one iteration of all at a time.

    Args:
        lanes: the ranks.
    """

    __slots__ = ("cost", "lanes")

    def __init__(self, driver: Driver, lanes: list[Lane], cost: Cost) -> None:
        super().__init__(driver, lanes[0].number)
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
