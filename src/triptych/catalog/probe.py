"""Measures FLOP/s and bandwidth of the processor at hand, and prints them as JSON.

A program of its own, which needs NumPy alone, since its caller says in the environment how many threads the
numerical library uses, and which of its kernels, and those are read once, when it is imported.

    python -P probe.py THREADS
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from time import perf_counter

import numpy as np

_SECONDS = 0.4
"""For each figure."""
_SIDE = 768
"""Side of the square matrices that are multiplied: full speed, within a few milliseconds."""
_SLABS, _ROWS, _COLUMNS = 4, 1 << 12, 1 << 12
"""Shape of the matrix that is read, a slab of 64 MiB at a time: the whole exceeds most caches."""


def best(action: Callable[[], object]) -> float:
    """Seconds of the quickest run: what another program takes away shows in the others."""
    action()
    least, until = float("inf"), perf_counter() + _SECONDS
    while perf_counter() < until:
        begin = perf_counter()
        action()
        least = min(least, perf_counter() - begin)
    return least


def waited() -> float:
    """Seconds that threads of this process were ready and had no processor (Linux; elsewhere 0)."""
    total = 0
    with contextlib.suppress(OSError):
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError, IndexError, ValueError):
                total += int((thread / "schedstat").read_text().split()[1])
    return total * 1e-9


def main(threads: int) -> None:
    """Prints FLOP/s in fp32, bytes/s that a product of matrix and vector reads, and the share of waiting."""
    square = np.full((_SIDE, _SIDE), 0.5, np.float32)
    product = np.empty_like(square)
    slabs = cycle(np.ones((_SLABS, _ROWS, _COLUMNS), np.float32))
    vector = np.ones(_COLUMNS, np.float32)
    began, before = perf_counter(), waited()
    multiplied = best(lambda: np.matmul(square, square, out=product))
    read = best(lambda: next(slabs) @ vector)
    waiting = (waited() - before) / (perf_counter() - began) / threads
    found = {"fp32": 2 * _SIDE**3 / multiplied, "bandwidth": 4 * _ROWS * _COLUMNS / read, "waited": waiting}
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]))
