"""What other programs of this machine take of the cores that this one may use."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from triptych.catalog.machine import cores

_STAT = Path("/proc/stat")
_BUSY_FIELDS = (0, 1, 2, 5, 6, 7)
"""Fields of a line of /proc/stat (proc(5)): user, nice, system, irq, softirq, and what a hypervisor took."""
_WINDOW = 1.0
"""Seconds: the system counts in hundredths, so that less tells little."""
_SHORTEST = 0.3
"""Seconds below which nothing can be said of the others."""


class Others:
    """CPU time, from when it is made, of all but this process and the children it has waited for."""

    def __init__(self) -> None:
        self._wall, self._busy, self._own = time.monotonic(), busy_seconds(), _own_seconds()

    @property
    def seconds(self) -> float:
        """Since it was made."""
        return time.monotonic() - self._wall

    def cores(self) -> float | None:
        """Cores that the others kept busy on average; None where the system does not tell.

        It does not, either, where this process is granted less of their time than all.
        """
        busy = busy_seconds()
        if busy is None or self._busy is None:
            return None
        others = busy - self._busy - (_own_seconds() - self._own)
        return max(others / self.seconds, 0.0)


class Lately:
    """Cores that others kept busy in the last second or two."""

    def __init__(self) -> None:
        self._older: Others | None = None
        self._newer = Others()

    def cores(self) -> float | None:
        """As of `Others`; None also before there is anything to tell."""
        since = self._older or self._newer
        known = since.cores() if since.seconds >= _SHORTEST else None
        if self._newer.seconds >= _WINDOW:
            self._older, self._newer = self._newer, Others()
        return known


def busy_seconds() -> float | None:
    """CPU time so far of the cores that this process may use."""
    if sys.platform != "linux" or not _STAT.exists():
        return None
    usable = os.sched_getaffinity(0)
    if cores() < len(usable):
        return None
    names = {f"cpu{number}" for number in usable}
    lines = [line.split() for line in _STAT.read_text(encoding="ascii").splitlines()]
    ticks = [[int(text) for text in fields] for name, *fields in lines if name in names]
    return sum(row[field] for row in ticks for field in _BUSY_FIELDS) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
