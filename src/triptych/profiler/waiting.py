"""Whether something else had the processors: the time that this process's threads were ready and had none."""

from __future__ import annotations

import contextlib
from pathlib import Path

_THREADS = Path("/proc/self/task")


def waited() -> float:
    """Seconds that the threads waited for a processor so far; 0 where the system does not tell.

    Linux counts it (`run_delay`, the second number of a thread's schedstat, in nanoseconds).
    """
    total = 0
    with contextlib.suppress(OSError):
        for thread in _THREADS.iterdir():
            with contextlib.suppress(OSError, IndexError, ValueError):  # a thread may end meanwhile
                total += int((thread / "schedstat").read_text().split()[1])
    return total * 1e-9
