"""Work in another process, on another core.

It is an interpreter of its own that never imports what the main program is, so that a script needs no guard.
It ends when its standard input does, so that it never outlives this process, however that ends, and it has no
part in Ctrl-C. Whatever goes wrong with it, the work can be done here instead.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")

_PAYS_FROM = 2.0
"""Seconds of work from which on the start of an interpreter (about one) is worth it."""
_POLL = 0.1
"""Seconds between two questions whether to wait on."""
_FAULTS = (OSError, ValueError, EOFError, pickle.PickleError, AttributeError, ImportError, TypeError)


def another_pays(seconds: float) -> bool:
    """Whether work that takes so long here is done sooner beside: there is a core, and memory for a twin."""
    return seconds > _PAYS_FROM and bool(sys.executable) and _cores() > 1 and _memory_taken() < _memory_left()


class Beside(Generic[T]):
    """Another process that does work with a small result; it is ended with the block that it is used in.

    Args:
        work: a function of a module, or a method of an object, that can be pickled.
        arguments: likewise.
    """

    def __init__(self, work: Callable[..., T | None], *arguments: Any) -> None:
        self.stopped = False
        """Whether it was not waited for."""
        self._process: subprocess.Popen[bytes] | None = None
        with suppress(*_FAULTS):
            job = pickle.dumps((work, arguments))
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", f"from {__name__} import main; main()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,
            )
            assert self._process.stdin is not None
            self._process.stdin.write(len(job).to_bytes(8, "little") + job)
            self._process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        if process is not None:
            process.kill()
            with suppress(OSError):  # of what could not be written to it any more
                process.communicate()

    def result(self, goes_on: Callable[[], bool]) -> T | None:
        """What came of it; None if nothing did, or it was not waited for.

        Args:
            goes_on: asked now and then while it works; False: it is not waited for.
        """
        process = self._process
        if process is None or process.stdout is None:
            return None
        while process.poll() is None:
            if not goes_on():
                self.stopped = True
                return None
            with suppress(subprocess.TimeoutExpired):
                process.wait(_POLL)
        with suppress(*_FAULTS):
            found: T = pickle.loads(process.stdout.read())
            return found
        return None


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_taken() -> float:
    """Bytes that this process holds; 0 where that is not told."""
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return float(pages * os.sysconf("SC_PAGE_SIZE"))
    return 0.0


def _memory_left() -> float:
    """Bytes that machine and control group still have; infinite where that is not told."""
    left = [float("inf")]
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        left += [float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    with suppress(OSError, ValueError):
        limit, held = (
            float(Path(f"/sys/fs/cgroup/memory.{name}").read_text(encoding="ascii"))
            for name in ("max", "current")
        )
        left.append(limit - held)
    return min(left)


def main() -> None:
    """The other process: reads the work, does it, and writes what came of it."""
    source, target = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed is no result
    job = source.read(int.from_bytes(source.read(8), "little"))
    threading.Thread(target=_end_with, args=(source.fileno(),), daemon=True).start()
    work, arguments = pickle.loads(job)
    pickle.dump(work(*arguments), target)
    target.flush()
    os._exit(0)


def _end_with(parent: int) -> None:
    """Ends this process when the one that began it is gone."""
    os.read(parent, 1)
    os._exit(1)
