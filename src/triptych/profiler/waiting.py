"""Whether something else had the processors: the time that threads were ready and had none.

Linux counts it: `run_delay`, the second number of a thread's schedstat, in nanoseconds. Where the system does
not tell, nothing is known. Threads of one process also wait for each other: after idleness the kernel wakes
two of them on one core, though another is free, and lets them share it for a while. That is the program's own
time, on a machine that is all its own too. So others hold a process up no longer than they run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from math import prod
from pathlib import Path

_PROCESSES = Path("/proc")
_MOST = 0.95
"""Largest share of a thread's time that it is taken to wait."""

Waits = Mapping[str, float]
"""Seconds that each thread waited so far, by its number."""


def waits(process: int | str = "self") -> Waits:
    """Those of all threads that a process has now."""
    return {thread: waited for thread, (_, waited) in _threads(process).items()}


def ran(process: int | str = "self") -> float:
    """Seconds that all threads that a process has now have run."""
    return sum(seconds for seconds, _ in _threads(process).values())


def _threads(process: int | str) -> dict[str, tuple[float, float]]:
    """Seconds that each ran and waited."""
    found = {}
    with suppress(OSError):
        for thread in (_PROCESSES / str(process) / "task").iterdir():
            with suppress(OSError, IndexError, ValueError):  # a thread may end meanwhile
                running, waiting, *_ = (thread / "schedstat").read_text().split()
                found[thread.name] = int(running) * 1e-9, int(waiting) * 1e-9
    return found


def held_up(before: Waits, after: Waits, seconds: float, others: float | None = None) -> float:
    """The share of some time by which others held a process up.

    Its threads work on parts of the same products and wait for each other: it is held up while the one is
    that waits longest, and by the others where they do not wait together with it, which is taken to be half.

    Args:
        before: at the beginning.
        after: at the end.
        seconds: in between, of work.
        others: cores that other programs kept busy in these seconds, where it is known.
    """
    if seconds <= 0:
        return 0.0
    each = [(waited - before.get(thread, 0.0)) / seconds for thread, waited in after.items()]
    longest, *rest = sorted((min(max(share, 0.0), _MOST) for share in each), reverse=True) or [0.0]
    share = 1 - (1 - longest) * prod(1 - share / 2 for share in rest)
    return share if others is None else min(share, others)


def busiest_child(process: int) -> int | None:
    """The descendant of a process that has used most CPU time; None: it has none."""
    children = {child: _cpu_ticks(child) for child in _descendants(process)}
    return max(children, key=lambda child: children[child], default=None)


def _descendants(process: int) -> Iterator[int]:
    with suppress(OSError):
        for thread in (_PROCESSES / str(process) / "task").iterdir():
            with suppress(OSError):
                for child in (thread / "children").read_text().split():
                    yield int(child)
                    yield from _descendants(int(child))


def _cpu_ticks(process: int) -> int:
    """Ticks of user and system time (proc(5)); the name before them may hold anything."""
    with suppress(OSError, IndexError, ValueError):
        fields = (_PROCESSES / str(process) / "stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
    return 0
