"""Time stamps inside a forward pass.

A pass is cut at marks, and each mark says what the time since the mark before it was spent on. Nothing lies
between two pieces, so that the operators of a pass add up to the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from time import perf_counter_ns
from typing import Any, Protocol

import torch

from triptych.profiler.statistics import Piece

INPUT = "input"
"""The mark before the embedding: until then the host builds the input."""
GRAPH = "graph"
"""The mark of the launch of a graph."""


class Clock(Protocol):
    """Stamps of a device's time."""

    def stamp(self) -> Any:
        """A stamp of the work that was given to the device so far."""

    def between(self, stamps: list[Any]) -> list[float]:
        """Seconds from each stamp to the next, once the work is done."""


class CPUClock:
    """The monotonic clock: on the CPU an operator is done when its call returns."""

    def stamp(self) -> int:
        """Nanoseconds."""
        return perf_counter_ns()

    def between(self, stamps: list[int]) -> list[float]:
        """Seconds from each stamp to the next."""
        return [(after - before) * 1e-9 for before, after in pairwise(stamps)]


class CUDAClock:
    """Events in the stream: the device stamps them when it reaches them.

    Args:
        event: makes one; torch's own in use, another in tests.
        synchronize: waits for the device.
    """

    def __init__(
        self,
        event: Callable[[], Any] = lambda: torch.cuda.Event(enable_timing=True),
        synchronize: Callable[[], None] = lambda: torch.cuda.synchronize(),
    ) -> None:
        self._event = event
        self._synchronize = synchronize
        self._spare: list[Any] = []

    def stamp(self) -> Any:
        """An event, recorded."""
        event = self._spare.pop() if self._spare else self._event()
        event.record()
        return event

    def between(self, stamps: list[Any]) -> list[float]:
        """Seconds from each event to the next; the events are used again."""
        self._synchronize()
        seconds = [before.elapsed_time(after) * 1e-3 for before, after in pairwise(stamps)]
        self._spare += stamps
        return seconds


class Marks:
    """The marks of one pass.

    Args:
        clock: of the device.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._stamps: list[Any] = []
        self._names: list[str] = []
        self.last = ""
        """What the latest mark was for; empty at the beginning of a pass."""
        self.on = False
        self.are_few = False
        """Whether only those are set that tell what is no operator: the input, and a graph."""
        self.at_input: Callable[[], None] | None = None
        """Called when the input is there."""

    def begin(self) -> None:
        """Starts a pass."""
        self._names.clear()
        self._stamps = [self.clock.stamp()]
        self.last = ""
        self.on = True

    def mark(self, name: str) -> None:
        """What came since the last mark was this operator."""
        if not self.on or (self.are_few and name not in (INPUT, GRAPH)):
            return
        if name == INPUT and self.at_input is not None:
            self.at_input()
        self._stamp(name)

    def end(self, name: str) -> list[Piece]:
        """Ends the pass: what came since the last mark was this operator.

        Returns:
            The pieces of the pass, in order.
        """
        self._stamp(name)
        self.on = False
        seconds = self.clock.between(self._stamps)
        return [Piece(*piece) for piece in zip(self._names, seconds, strict=True)]

    @contextmanager
    def few(self) -> Iterator[None]:
        """Passes with few marks."""
        self.are_few = True
        try:
            yield
        finally:
            self.are_few = False

    def _stamp(self, name: str) -> None:
        self._stamps.append(self.clock.stamp())
        self._names.append(name)
        self.last = name
