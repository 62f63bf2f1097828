"""What the engine keeps of a run: the columns that the simulator fills, and the CPU time of each batch."""

from __future__ import annotations

from array import array
from itertools import count
from math import nan

from triptych.policy import Batch, Request, Scheduler, Status
from triptych.record.journal import Journal
from triptych.record.recorder import Recorder


class Unrecorded:
    """Keeps nothing: what a server without a record directory does, for its memory must not grow."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._ids = count()

    def arrived(self, request: Request, now: float) -> int:
        """Numbers a request."""
        return next(self._ids)

    def refused(self, request: Request, now: float) -> None:
        """Nothing."""

    def formed(self, batch: Batch | None, now: float) -> None:
        """Nothing."""

    def ran(
        self,
        batch: Batch,
        *,
        start: float,
        seconds: float,
        cpu_seconds: float,
        now: float,
        prefilled: list[Request],
        finished: list[Request],
    ) -> None:
        """Nothing."""

    def gave_up(self, request: Request, status: Status, now: float) -> None:
        """Nothing."""

    def abort(self, request: Request, status: Status, now: float) -> None:
        """Drops a request from the scheduler."""
        self._scheduler.abort(request, status)


class Log:
    """Keeps every request and every batch.

    Args:
        scheduler: whose batches they are.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.recorder = Recorder(0)
        self.journal = Journal(self.recorder, scheduler, instance=0, number=0)
        self.cpu_seconds = array("d")
        """Of each batch, all threads of the process together."""
        self.output_tokens = array("q")
        """Asked for, by request."""
        self._alive: dict[Request, None] = {}

    def arrived(self, request: Request, now: float) -> int:
        """Numbers a request and notes what it is."""
        request.id = self.recorder.open()
        self.recorder.arrived(request, now)
        self.output_tokens.append(request.output_tokens)
        self._alive[request] = None
        return request.id

    def refused(self, request: Request, now: float) -> None:
        """Notes that a request cannot be served."""
        self.recorder.close(request, now)
        del self._alive[request]

    def cut_short(self) -> None:
        """Notes where those stand that have not ended."""
        for request in self._alive:
            self.journal.cut_short(request, nan)
        self._alive.clear()

    def formed(self, batch: Batch | None, now: float) -> None:
        """Comes after `Scheduler.schedule`."""
        self.journal.formed(batch, now)

    def ran(
        self,
        batch: Batch,
        *,
        start: float,
        seconds: float,
        cpu_seconds: float,
        now: float,
        prefilled: list[Request],
        finished: list[Request],
    ) -> None:
        """Comes after `Scheduler.complete`, with what it said."""
        self.journal.ran(
            batch, 1, start=start, first=seconds, growth=0.0, now=now, prefilled=prefilled, finished=finished
        )
        self.cpu_seconds.append(cpu_seconds)
        for request in finished:
            del self._alive[request]

    def gave_up(self, request: Request, status: Status, now: float) -> None:
        """Notes that the request's client waits no longer; `ran` or `abort` follows."""
        self.journal.gave_up(request, status, now)

    def abort(self, request: Request, status: Status, now: float) -> None:
        """Drops a request from the scheduler, and notes it."""
        self.journal.abort(request, status, now)
        del self._alive[request]
