"""The processor at hand, told without torch: a profile of a CPU is of one kind, and of so many cores."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from triptych.catalog.machine import cores, processor

_MEASURED_WITH = ("torch", "transformers", "triptych")


def is_this(clocks: Mapping[str, str], versions: Mapping[str, str]) -> bool:
    """Whether a profile of a CPU with these `clocks` and `versions` is of this processor and engine.

    Profiles before `cores` was noted have the threads of torch alone: one a core, or one for every two that
    share one.
    """
    if any(_release(versions.get(name, "")) != _release(here) for name, here in libraries().items()):
        return False
    here = cores()
    same = clocks.get("cores", str(here)) == str(here)
    threads = clocks.get("threads", "")
    return clocks.get("processor") == processor() and same and threads in _threads(here)


def _threads(here: int) -> tuple[str, ...]:
    """How many torch may use, as text."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return (asked,) if asked.isdigit() else (str(here), str(here // 2))


def _release(version: str) -> str:
    """Without the build: `2.13.0+cpu` is 2.13.0."""
    return version.partition("+")[0]


def libraries() -> dict[str, str]:
    """Versions of those that measurements depend on."""
    found = {}
    for name in _MEASURED_WITH:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found
