"""How much a server can take, and a workload at a share of that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from triptych.bench import bench
from triptych.record import Run
from triptych.spec.base import SpecError
from triptych.spec.workload import Closed, WorkloadSpec
from triptych.workload import Requests

_ROUNDS = 3
"""Requests of the closed loop for each that is under way, at the least."""
_STEADY = (0.25, 0.9)
"""The part of the answers whose rate is taken: before it the loop fills, after it the longest straggle."""


def parse_loads(text: str) -> tuple[float, ...]:
    """Shares of the capacity, as in `0.5,0.85`.

    Raises:
        SpecError: they are none.
    """
    try:
        loads = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise _no_shares(text) from None
    check_loads(loads, text)
    return loads


def check_loads(loads: Sequence[float], text: str = "") -> None:
    """Sees to it that these are shares of the capacity, each above 0, at most 1, and named once.

    Args:
        loads: the shares.
        text: as they were written, for errors.

    Raises:
        SpecError: they are not.
    """
    names = {f"{load:g}" for load in loads}  # as their folders are called
    if not all(0 < load <= 1 for load in loads) or len(names) < len(loads):
        raise _no_shares(text or ",".join(f"{load:g}" for load in loads))


def _no_shares(text: str) -> SpecError:
    problem = f"{text!r} must be different shares of the capacity, each above 0 and up to 1"
    return SpecError("--load", f"{problem}; write it like 0.5,0.85")


def saturate(
    workload: WorkloadSpec,
    requests: int,
    concurrency: int,
    url: str,
    *,
    warmup: int,
    progress: Callable[[int, int, float], bool] | None,
) -> Run:
    """Keeps `concurrency` requests of the workload under way, none of which gives up.

    Args:
        workload: of which images and lengths are taken.
        requests: of it; more are made if they are too few to fill the loop a few times.
        concurrency: requests under way: as many as the scheduler runs at once.
        url: of the server.
        warmup: as of `bench`.
        progress: as of `bench`.
    """
    closed = workload.model_copy(
        update={
            "requests": max(requests, _ROUNDS * concurrency),
            "arrivals": Closed(kind="closed", concurrency=concurrency),
            "duration": None,
            "max_concurrency": None,
            "rate_scale": 1.0,
            "timeout": None,
            "aborts": None,
        }
    )
    return bench(closed, url, warmup=warmup, progress=progress)


def answer_rate(run: Run) -> float:
    """Requests/s that a closed loop was answered at, while it was full.

    Raises:
        SpecError: too few were answered to tell.
    """
    ends = np.sort(run.requests["end"][run.finished])
    first, last = (int(share * (len(ends) - 1)) for share in _STEADY)
    if last <= first or not ends[last] > ends[first]:
        raise SpecError("--load", f"{len(ends)} answers tell no capacity; declare more requests")
    return (last - first) / float(ends[last] - ends[first])


def check_rate(requests: Requests, file: object) -> None:
    """Sees to it that the requests have a rate that can be changed.

    Raises:
        SpecError: they come in a closed loop, or all at once.
    """
    if not np.ptp(requests.arrival) > 0:
        problem = "have no rate that --load could set; use poisson, gamma, constant or a trace"
        raise SpecError("arrivals", problem, file=str(file))


def at_rate(requests: Requests, rate: float) -> Requests:
    """The same requests, faster or slower: from the first to the last, so many a second."""
    native = (len(requests) - 1) / float(np.ptp(requests.arrival))
    return replace(requests, arrival=requests.arrival * (native / rate))
