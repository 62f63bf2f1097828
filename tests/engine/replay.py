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


class Retraced:
    """The requests of a recorded run, as traffic of the simulator."""

    concurrency = None

    def __init__(self, log: Log, requests: Sequence[Request]) -> None:
        recorder = log.recorder
        self._requests = requests
        self._arrival = list(recorder.arrival)
        finished = STATUSES.index(Status.FINISHED.value)
        rejected = STATUSES.index(Status.REJECTED.value)
        self._patience = []
        for index, request in enumerate(requests):
            ran_out = recorder.status[index] == finished and (
                recorder.generated_tokens[index] == request.output_tokens
            )
            if ran_out or recorder.status[index] == rejected:
                self._patience.append(inf)
            else:  # an early end is seen within the last batch, and takes effect when that ends
                self._patience.append(recorder.end[index] - TICK - self._arrival[index])

    def __len__(self) -> int:
        return len(self._requests)

    def arrivals(self) -> Iterator[float]:
        return iter(self._arrival)

    def patience(self, index: int) -> float:
        return self._patience[index]

    def aborts(self, index: int) -> bool:
        return True

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
    simulator = Simulator(Retraced(log, requests), jump=False)  # type: ignore[arg-type]
    lane = Lane(simulator, scheduler, RecordedTimes(log), instance=0, number=0)  # type: ignore[arg-type]
    simulator.add_pool([Instance(0, "all", [lane])], list(range(3)))  # type: ignore[arg-type]
    simulator.run()
    return simulator
