"""Batches under the virtual clock: begin a run, foresee its end, cut it short, begin the next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from heapq import heappush
from math import ceil, sqrt
from typing import Any, Protocol

from triptych.policy import Request, Status

Event = tuple[float, int, Callable[[float, Any], None], Any]
"""(time, order, action, argument): `action(time, argument)` is called then."""

_EVENTS = 1 << 40
"""More than there will be."""


def _arrival(gone: tuple[Request, Status]) -> int:
    return gone[0].id


class Clock(Protocol):
    """What a runner needs of the simulator around it."""

    jump: bool
    """Whether equal iterations are run in one leap."""
    events: list[Event]
    """Heap of what is to happen."""
    order: Iterator[int]
    """Numbers events, so that equal times keep the order in which they were foreseen; ends of runs come last,
    in the order of their runners: they are not foreseen in the same order if runs are leapt over."""

    def drop(self, request: Request, status: Status, now: float) -> None:
        """Ends a request whose client has given up."""


class Runner(ABC):
    """Runs batches one after the other.

    Args:
        clock: the simulator.
        number: of the runner among all.
    """

    __slots__ = (
        *("_action", "_clock", "_events", "_order", "_poked", "_rank", "end", "first", "gone"),
        *("growth", "iterations", "start"),
    )

    def __init__(self, clock: Clock, number: int) -> None:
        self._clock = clock
        self._rank = (number + 1) * _EVENTS
        self.gone: list[tuple[Request, Status]] = []
        """Given up by their clients while the batch is running: dropped when it ends, in the order in which
        they came, since as cached blocks are released, so will they be evicted."""
        self.iterations = 0
        """Planned for the present run; 0 when nothing runs, -1 between two runs."""
        self.start = self.end = self.first = self.growth = 0.0
        self._action = self._on_end
        self._events = clock.events
        self._order = clock.order
        self._poked = False
        """Whether something has changed between two runs, after the batch was formed."""

    @abstractmethod
    def form(self, now: float) -> int:
        """Forms what to run next, sets `first` and `growth`, and returns for how many iterations they hold.

        0 means that there is nothing to run.
        """

    def drop_later(self, request: Request, status: Status) -> bool:
        """Has a request dropped at the end of what works on it now; False if nothing does."""
        if self.iterations <= 0:
            return False
        self.gone.append((request, status))
        return True

    def passed(self, now: float) -> int:
        """Iterations of the present run that have ended before `now`."""
        return self._steps_by(now) - 1 if self.iterations > 0 else 0

    @abstractmethod
    def close(self, now: float, iterations: int) -> None:
        """Ends a run."""

    def poke(self, now: float) -> None:
        """Something has changed: begins if idle, otherwise runs no further than the coming boundary."""
        if self.iterations == 0:
            self.begin(now)
        elif self.iterations < 0:
            self.poked()
        elif self.iterations > 1:
            steps = self._steps_by(now)
            if steps < self.iterations:
                self._run_for(steps)

    def poked(self) -> None:
        """Notes that something has changed while a batch is formed."""
        self._poked = True

    def begin(self, now: float) -> None:
        """Starts the next run, if there is anything to run."""
        self.iterations = -1
        self._poked = False
        iterations = self.form(now)
        if iterations == 0:
            self.iterations = 0
            if self._poked:
                self.begin(now)
            return
        self.start = now
        self._run_for(1 if self._poked or not self._clock.jump else iterations)

    def _run_for(self, iterations: int) -> None:
        """Plans how many iterations the present run has."""
        self.iterations = iterations
        if iterations == 1:
            self.end = end = self.start + self.first
        else:
            further = self.growth * (iterations * (iterations - 1) // 2)
            self.end = end = self.start + iterations * self.first + further
        event: Event = (end, self._rank + next(self._order), self._action, None)
        heappush(self._events, event)

    def _on_end(self, now: float, _: None) -> None:
        iterations = self.iterations
        if now != self.end or iterations < 1:
            return  # the run was cut short since this was expected
        self.iterations = -1
        self.close(now, iterations)
        if self.gone:
            gone, self.gone = self.gone, []
            gone.sort(key=_arrival)
            for request, status in gone:
                self._clock.drop(request, status, now)
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
