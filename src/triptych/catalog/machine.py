"""The machine at hand: its processor, and how much of it this process may use."""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def processor() -> str:
    """Its name."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def features() -> frozenset[str]:
    """Instruction sets, as Linux names them; none where the system does not tell."""
    return frozenset((_cpuinfo("flags") or _cpuinfo("Features")).split())


def cores() -> int:
    """Cores that this process may use: those that it may run on, and no more than its cgroup grants."""
    here = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    granted = [math.ceil(quota) for quota in _quotas()]
    return max(1, min([here, *granted]))


def threads() -> int:
    """Threads that numerical libraries use: a core each, unless OMP_NUM_THREADS says otherwise."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(asked) if asked.isdigit() and int(asked) else cores()


def memory() -> int:
    """Bytes of memory: the machine's, or what the cgroup of this process may have, if that is less."""
    limits = [int(text) for text in _limits("memory.max") if text.isdigit()]
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *limits])


def _cpuinfo(field: str) -> str:
    """The first value of a field; empty where there is none."""
    try:
        for line in _CPUINFO.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == field:
                return value.strip()
    except OSError:
        pass
    return ""


def _quotas() -> Iterator[float]:
    """Cores' worth of time that cgroups grant."""
    for text in _limits("cpu.max"):
        quota, _, period = text.partition(" ")
        if quota.isdigit() and period.isdigit():
            yield int(quota) / int(period)


def _limits(name: str) -> Iterator[str]:
    """A file of the cgroup (version 2) of this process, and of those around it."""
    try:
        lines = _OWN_CGROUP.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    if own is None:
        return
    for folder in (_CGROUPS / own, *(_CGROUPS / own).parents):
        if not folder.is_relative_to(_CGROUPS):
            return
        try:
            yield (folder / name).read_text(encoding="utf-8").strip()
        except OSError:
            continue
