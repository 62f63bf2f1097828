"""The wall clock of a run."""

from __future__ import annotations

from time import monotonic_ns

TICK = 2.0**-20
"""Seconds. Times are whole ticks, about a microsecond: sums and differences of such numbers are exact, so
that the simulator can retrace a recorded run to the bit."""


class Clock:
    """Seconds since it was made, in whole ticks."""

    def __init__(self) -> None:
        self._zero = monotonic_ns()

    def now(self) -> float:
        """The present."""
        return self.at(monotonic_ns())

    def at(self, nanoseconds: int) -> float:
        """A reading of the system's monotonic clock, which all processes of a machine share."""
        return ((nanoseconds - self._zero) * 2**20 // 10**9) * TICK
