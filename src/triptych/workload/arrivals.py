"""When requests come."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from triptych.spec.workload import Constant, Gamma, Poisson, WorkloadSpec
from triptych.workload.streams import stream

Floats = NDArray[np.float64]


def arrival_times(spec: WorkloadSpec, traced: Floats | None) -> Floats:
    """Arrival of each request in seconds, [n] nondecreasing; `traced` are the times of the trace.

    `requests` and `duration` bound n; where neither is given, the length of the trace does. Gaps are
    drawn with mean 1 and then scaled, so that another rate stretches the same pattern.
    """
    limit, until = spec.requests, spec.duration or math.inf
    if traced is not None and limit is None and spec.duration is None:
        limit = len(traced)
    process = spec.arrivals
    if isinstance(process, (Poisson, Gamma, Constant)):
        rate = process.rate * spec.rate_scale
        times = _renewals(process, spec.seed, limit, until * rate) / rate
    elif process.kind == "trace":
        assert traced is not None, "checked by WorkloadSpec"
        times = traced[:limit] / spec.rate_scale
    else:
        assert limit is not None, "checked by WorkloadSpec"
        times = np.zeros(limit)
    return times[times < until]


def _renewals(process: Poisson | Gamma | Constant, seed: int, limit: int | None, until: float) -> Floats:
    """Times at a rate of 1: the first `limit`, or enough to pass `until`."""
    rng = stream(seed, "arrivals")
    if isinstance(process, Poisson):
        return _accumulate(rng.standard_exponential, limit, until)
    if isinstance(process, Gamma):
        shape = 1 / process.cv**2
        return _accumulate(lambda count: rng.standard_gamma(shape, count) / shape, limit, until)
    count = math.ceil(until) + 1 if limit is None else min(limit, until + 1)
    return np.arange(int(count), dtype=np.float64)


def _accumulate(draw: Callable[[int], Floats], limit: int | None, until: float) -> Floats:
    """Running sum of gaps with mean 1, drawn in pieces that do not change the result."""
    pieces: list[Floats] = []
    count, last = 0, 0.0
    while last < until and (limit is None or count < limit):
        left = math.inf if limit is None else limit - count
        ahead = until - last
        size = int(min(left, ahead + 6 * math.sqrt(ahead) + 16))
        gaps = draw(size)
        gaps[0] += last
        pieces.append(np.cumsum(gaps))
        count, last = count + size, float(pieces[-1][-1])
    return np.concatenate(pieces)
