"""The wall clock of a run."""

from __future__ import annotations

from time import monotonic_ns, time

TICK = 2.0**-20
"""Seconds. Times are whole ticks, about a microsecond: sums and differences of such numbers are exact, so
that the simulator can retrace a recorded run to the bit."""


class Clock:
    """Seconds since it was made, in whole ticks."""

    def __init__(self) -> None:
        self.zero = monotonic_ns()
        """Reading of the system's monotonic clock that is time 0, in nanoseconds."""
        self.began_at = time()
        """Unix time of time 0, seconds: by it records of several processes are laid beside each other."""

    def now(self) -> float:
        """The present."""
        return self.at(monotonic_ns())

    def at(self, nanoseconds: int) -> float:
        """A reading of the system's monotonic clock, which all processes of a machine share."""
        return ticks(nanoseconds - self.zero)


def ticks(nanoseconds: int) -> float:
    """Seconds, in whole ticks."""
    return (nanoseconds * 2**20 // 10**9) * TICK
