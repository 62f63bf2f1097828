"""Lanes of a pipeline: as many batches are under way as there are stages."""

from __future__ import annotations

from triptych.policy import Request, Scheduler, Status
from triptych.simulation.lane import Cost, Driver, Lane


class PipelineLane(Lane):
    """A lane whose batches go through pipeline stages that it shares with the instance's other lanes.

    A batch enters a stage when the batch before it has left, whichever lane that came from. There is a lane
    for each stage, and a request stays on its lane, as on a virtual engine of vLLM V0.

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


class SharedLane(PipelineLane):
    """A lane of a pipeline whose lanes share memory and queues: one scheduler, several batches under way.

    As in vLLM V1, whose engine waits for its oldest batch when nothing more can be scheduled: what comes
    while batches are under way is seen when the next of them ends. Then all idle lanes ask for one.

    Args:
        lanes: of the instance, all in one list; this one is added.
    """

    __slots__ = ("lanes",)

    def __init__(
        self,
        driver: Driver,
        scheduler: Scheduler,
        cost: Cost,
        *,
        instance: int,
        number: int,
        free_at: list[float],
        lanes: list[SharedLane],
    ) -> None:
        super().__init__(driver, scheduler, cost, instance=instance, number=number, free_at=free_at)
        self.lanes = lanes
        lanes.append(self)

    def poke(self, now: float) -> None:
        under_way = False
        for lane in self.lanes:
            if lane.iterations < 0:
                lane.poked()
                return
            under_way = under_way or lane.iterations > 0
        if not under_way:
            self.begin(now)

    def begin(self, now: float) -> None:
        """Asks this lane and all others without a batch; first those whose decodes wait for memory."""
        others = [lane for lane in self.lanes if lane is not self and lane.iterations == 0]
        waiting = [lane for lane in others if lane.scheduler.decodes.members]
        for lane in waiting:
            lane.ask(now)
        self.ask(now)
        for lane in others:
            if lane.iterations == 0 and lane not in waiting:
                lane.ask(now)

    def ask(self, now: float) -> None:
        """Begins the lane's next batch, if there is one."""
        super().begin(now)

    def drop_later(self, request: Request, status: Status) -> bool:
        last: SharedLane | None = None
        for lane in self.lanes:
            at_work = lane.iterations > 0 and lane.scheduler.works_on(request)
            if at_work and (last is None or lane.end > last.end):
                last = lane
        if last is None:
            return False
        request.unwanted = True
        last.gone.append((request, status))
        return True
