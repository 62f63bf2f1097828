"""The simulator retraces a recorded run of the engine: same requests, arrivals and batch times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf

import numpy as np

from triptych.engine.clock import TICK
from triptych.engine.log import Log
from triptych.policy import Batch, Request, Scheduler, Status
from triptych.record.columns import BATCH_ROW
from triptych.record.run import STATUSES
from triptych.simulation.lane import Lane
from triptych.simulation.simulator import Instance, Simulator

Make = tuple[object, ...]


def watch(scheduler: Scheduler) -> list[object]:
    """A list that will hold what every batch of the scheduler is made of."""
    batches: list[object] = []
    form = scheduler.schedule

    def schedule() -> Batch | None:
        batch = form()
        if batch is not None:
            batches.append(
                (
                    tuple((chunk.request.id, *chunk[1:]) for chunk in batch.chunks),
                    tuple(member.id for member in scheduler.decodes.members) if batch.decodes else (),
                    tuple((request.id, image.content) for request, image in batch.images),
                    tuple(request.id for request in batch.encoded),
                    tuple(request.id for request in scheduler.preempted),
                )
            )
        return batch

    scheduler.schedule = schedule  # type: ignore[method-assign]
    return batches


class Retracing(Simulator):
    """A simulator whose requests may also stop: the token that says so is theirs, unlike an abort's."""

    def _give_up(self, now: float, request: Request) -> None:
        if self.traffic.stops(request.id):  # type: ignore[attr-defined]
            self.drop(request, Status.FINISHED, now)
        else:
            super()._give_up(now, request)


class Retraced:
    """The requests of a recorded run, as traffic of the simulator."""

    concurrency = None

    def __init__(self, log: Log, requests: Sequence[Request]) -> None:
        recorder = log.recorder
        self._requests = requests
        self._arrival = list(recorder.arrival)
        rejected = STATUSES.index(Status.REJECTED.value)
        self._status = recorder.status
        self._patience = []
        for index, request in enumerate(requests):
            lived = recorder.end[index] - self._arrival[index]
            if recorder.status[index] == rejected:
                lived = inf
            elif self.stops(index):  # within the last batch, to take effect when that ends
                ran_out = recorder.generated_tokens[index] == request.output_tokens
                lived = inf if ran_out else lived - TICK
            self._patience.append(lived)

    def __len__(self) -> int:
        return len(self._requests)

    def arrivals(self) -> Iterator[float]:
        return iter(self._arrival)

    def patience(self, index: int) -> float:
        return self._patience[index]

    def aborts(self, index: int) -> bool:
        return self._status[index] == STATUSES.index(Status.ABORTED.value)

    def stops(self, index: int) -> bool:
        """Whether it ended by itself, and not since its client gave up."""
        return self._status[index] == STATUSES.index(Status.FINISHED.value)

    def request(self, index: int) -> Request:
        made = self._requests[index]
        return Request(index, made.prompt_tokens, made.output_tokens, made.images, made.block_hashes)


class RecordedTimes:
    """A cost that reads from the record how long each batch takes."""

    def __init__(self, log: Log) -> None:
        rows = np.frombuffer(log.journal.rows, BATCH_ROW)
        self._starts = rows["start"]
        self._seconds = iter(rows["first"].tolist())

    def run(self, batch: Batch) -> tuple[float, float, int]:
        return next(self._seconds), 0.0, 1


def retrace(log: Log, requests: Sequence[Request], scheduler: Scheduler) -> Simulator:
    """Runs the simulator over a recorded run, with a fresh scheduler of the same kind."""
    simulator = Retracing(Retraced(log, requests), jump=False)  # type: ignore[arg-type]
    lane = Lane(simulator, scheduler, RecordedTimes(log), instance=0, number=0)  # type: ignore[arg-type]
    simulator.add_pool([Instance(0, "all", [lane])], list(range(3)))  # type: ignore[arg-type]
    simulator.run()
    return simulator
