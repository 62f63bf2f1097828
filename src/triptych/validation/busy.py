"""What other programs of this machine take while a server is measured."""

from __future__ import annotations

import os
import time
from pathlib import Path

from triptych.catalog.machine import cores

_STAT = Path("/proc/stat")
_BUSY_FIELDS = (0, 1, 2, 5, 6, 7)
"""Of the first line of /proc/stat (proc(5)): user, nice, system, irq, softirq, and what a hypervisor took."""


class Others:
    """CPU time, from when it is made, of all but this process and the children it has waited for."""

    def __init__(self) -> None:
        self._wall, self._busy, self._own = time.monotonic(), _busy_seconds(), _own_seconds()

    def cores(self) -> float | None:
        """Cores that the others kept busy on average; None where the system does not tell.

        It does not, either, of the cores that are left to this process where it may not use all of them.
        """
        busy = _busy_seconds() if cores() == os.cpu_count() else None
        if busy is None or self._busy is None:
            return None
        others = busy - self._busy - (_own_seconds() - self._own)
        return max(others / (time.monotonic() - self._wall), 0.0)


def _busy_seconds() -> float | None:
    """CPU time of the whole machine since it was started."""
    if not _STAT.exists():
        return None
    ticks = _STAT.read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    return sum(int(ticks[field]) for field in _BUSY_FIELDS) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
