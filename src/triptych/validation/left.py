"""How much of the machine was left to a server while it was measured.

Its batches need so many core seconds, which the system counts, and take so long where nothing else runs,
which the profile tells: so they use so many cores. Where these and the cores that all else kept busy (other
programs, client, front end) are more than there are, everybody gets less in proportion, and batches take
longer by as much. How long they took does not enter.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Self

from triptych.catalog.machine import cores
from triptych.profiler.others import busy_seconds
from triptych.profiler.waiting import ran


@dataclass(frozen=True)
class Clocks:
    """Readings at one time, in seconds."""

    wall: float
    busy: float | None
    """CPU time of all on the cores that may be used; None: the system does not tell."""
    worker: float
    """That of the server's worker."""

    @classmethod
    def now(cls, worker: int | None) -> Self:
        """The present ones.

        Args:
            worker: its process; None: there is none.
        """
        return cls(time.monotonic(), busy_seconds(), 0.0 if worker is None else ran(worker))


def share_left(before: Clocks, after: Clocks, alone: float) -> float:
    """The share of the machine that was left to the worker; 1: as much as it can use, or it is not known.

    Args:
        before: readings.
        after: later ones.
        alone: seconds that its batches in between take on a machine of their own, as predicted.
    """
    wall, worked = after.wall - before.wall, after.worker - before.worker
    if before.busy is None or after.busy is None or alone <= 0 or wall <= 0 or worked <= 0:
        return 1.0
    here = cores()
    others = max(after.busy - before.busy - worked, 0.0) / wall
    return min(here / (min(worked / alone, here) + others), 1.0)
