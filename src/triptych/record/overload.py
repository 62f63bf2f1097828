"""Whether arrivals outpaced service, and whether the trace is long enough to tell; from the record alone.

A queue whose arrivals are outpaced has no mean wait: the wait grows as long as requests come. A stable queue
at high load also grows now and then, and a short trace ends before much has gathered. So it is not the
length of a queue that is judged, but what came for it against what its servers did while it was not empty:
`saturation.py`. The arrivals' time is looked at as a whole but for its begin, and its last three quarters
and its last half by themselves, for traces whose rate changes.

Where batches may become ever larger no queue forms: `system.py` looks at the requests under way instead.
Closed-loop and at-once arrivals never show overload: their queue is longest at the start.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from triptych.record.logs import Column, Columns
from triptych.record.run import STATUSES
from triptych.record.saturation import Queue, Saturation, saturation
from triptych.record.summary import SURE, Overload, PhaseQueue
from triptych.record.system import InSystem, in_system

_BLOCKS = 20
_BEGINS = (1, 5, 10)
"""Blocks of the arrivals' time left out at its start: the first, in which service sets in, and more."""
_PERHAPS = 0.95
"""As sure as this, overload is worth a word."""
_LENGTHENS = 1.5
"""Times as long in the last quarter as in the second. A wait that grows as time does is 7/3 times as long."""
_TOTAL = ("e2e", "e2e_per_token")
_PART_OF = {
    "encode": ("ttft", "encode_queue", *_TOTAL),
    "embeddings": ("ttft", *_TOTAL),
    "prefill": ("ttft", "prefill_queue", *_TOTAL),
    "decode": ("tpot", "itl", "decode_queue", *_TOTAL),
    "system": ("tpot", "itl", *_TOTAL),
}
"""Latencies that a wait is part of, by what is waited for."""


class _Found(NamedTuple):
    """A wait that grows."""

    phase: str
    sure: float
    arrival_rate: float
    served_rate: float
    growth: float
    """Requests/s."""
    length: int


def find_overload(requests: Columns, rate: float | None = None) -> tuple[Overload | None, bool]:
    """The overload of a run, if there is one, and whether its latencies had settled.

    They had if no overload is likely, the number of requests under way did not grow when the last request
    came, and the requests of the first half had ended by then. Arrivals at a single instant have nothing to
    settle.

    Args:
        requests: the raw columns; those of phases may be NaN throughout (measured from outside).
        rate: at which requests are declared to come, requests/s; None: it is estimated.
    """
    arrival = requests["arrival"]
    came = ~np.isnan(arrival)
    if not came.any():
        return None, True
    begin, last = float(np.min(arrival[came])), float(np.max(arrival[came]))
    if last <= begin:
        return None, True
    edges = np.linspace(begin, last, _BLOCKS + 1)
    system = in_system(arrival[came], requests["end"][came], edges)
    found = [
        _Found(phase, one.sure, one.arrival_rate, one.capacity, one.growth / one.seconds, one.length)
        for phase, queue in _queues(requests).items()
        if (one := _most_loaded(queue, begin, last, _share(queue, rate, int(came.sum())))) is not None
    ]
    if not any(one.sure >= SURE for one in found) and system.piles_up:
        found = [_under_way(system, arrival[came], last - begin)]
    if not found:
        return None, system.settled
    found = [one for one in found if one.sure >= SURE] or found
    metrics = {metric for one in found for metric in _PART_OF[one.phase]}
    metrics |= _longer(requests, [one.phase for one in found])
    fastest = max(found, key=lambda one: one.growth)
    slowest = min(one.served_rate for one in found)
    overload = Overload(
        arrival_rate=fastest.arrival_rate,
        served_rate=fastest.served_rate,
        sure=max(one.sure for one in found),
        drain_seconds=sum(one.length for one in found) / slowest if slowest else None,
        queues=tuple(
            PhaseQueue(one.phase, one.growth, one.length)
            for one in sorted(found, key=lambda one: -one.growth)
        ),
        metrics=tuple(sorted(metrics)),
    )
    return overload, False


def growing(requests: Columns, rate: float | None = None) -> tuple[str, ...]:
    """Latencies that only tell how long the trace is, as an overload is sure; see `Overload.metrics`."""
    overload, _ = find_overload(requests, rate)
    return overload.metrics if overload is not None and overload.certain else ()


def _longer(requests: Columns, phases: Collection[str]) -> set[str]:
    """Latencies that became longer, where no queue tells: the network, a batch, what a client cannot see."""
    arrival, first_token = requests["arrival"], requests["first_token"]
    candidates: dict[tuple[str, ...], Column] = {("transfer_seconds",): requests["transfer_seconds"]}
    if "system" in phases:
        candidates["ttft",] = first_token - arrival
    if np.isnan(requests["prefill_start"]).all():
        candidates["tpot", "itl"] = requests["end"] - first_token
    return {name for names, values in candidates.items() if _lengthens(values, arrival) for name in names}


def _lengthens(values: Column, arrival: Column) -> bool:
    """Whether what requests take grows from the second quarter of the requests to the last."""
    known = ~np.isnan(values) & ~np.isnan(arrival)
    values, arrival = values[known], arrival[known]
    if not len(values):
        return False
    second, third, last = (np.quantile(arrival, share) for share in (0.25, 0.5, 0.75))
    before, after = values[(arrival > second) & (arrival <= third)], values[arrival > last]
    return bool(len(before) and len(after) and after.mean() > _LENGTHENS * before.mean())


def _share(queue: Queue, rate: float | None, came: int) -> float | None:
    """The declared rate of the requests that come to a queue."""
    return None if rate is None else rate * float((~np.isnan(queue.arrival)).sum()) / came


def _most_loaded(queue: Queue, begin: float, last: float, rate: float | None) -> Saturation | None:
    """The part of the time from which overload is surest, if it is likely in any."""
    block = (last - begin) / _BLOCKS
    parts = [saturation(queue, begin + first * block, last, rate=rate) for first in _BEGINS]
    likely = [part for part in parts if part is not None and part.outpaced and part.sure >= _PERHAPS]
    return max(likely, key=lambda part: part.sure, default=None)


def _under_way(system: InSystem, arrival: Column, seconds: float) -> _Found:
    """What the requests under way say of the second half of the time."""
    count, half = system.count, _BLOCKS // 2
    seconds /= 2
    growth = float(count[-1] - count[half])
    came = float((arrival > arrival.max() - seconds).sum())
    return _Found(
        "system",
        system.sure,
        came / seconds,
        max(came - growth, 0.0) / seconds,
        growth / seconds,
        int(count[-1]),
    )


def _queues(requests: Columns) -> Mapping[str, Queue]:
    """The waits for each phase. Decode's is for memory and for the KV."""
    arrival, first_token, end = requests["arrival"], requests["first_token"], requests["end"]

    def queue(ready: Column, start: Column, done: Column, whose: Column, place: Column) -> Queue:
        left = np.where(np.isnan(start), end, start)
        # What ended before its turn came does not ask for it.
        asks = whose & ~(np.isnan(ready) & ~np.isnan(end))
        ready = np.where(asks, ready, np.nan)
        left = np.where(np.isnan(ready), np.nan, left)
        return Queue(np.where(asks, arrival, np.nan), ready, left, done, place)

    accepted = requests["status"] != STATUSES.index("rejected")
    if np.isnan(requests["prefill_start"]).all():
        front = queue(arrival, first_token, end, accepted, np.zeros(len(arrival), np.int32))
        return {"prefill": replace(front, seen=False)}
    with_images, decodes = accepted & (requests["images"] > 0), accepted & (requests["output_tokens"] > 1)
    ready, encoded = requests["prefill_ready"], requests["encode_end"]
    encoding, prefilling = requests["encode_instance"], requests["prefill_instance"]
    decoding, decode_ready = requests["decode_instance"], requests["decode_ready"]
    prefilled = np.where(prefilling == decoding, end, first_token)
    return {
        "encode": queue(arrival, requests["encode_start"], encoded, with_images, encoding),
        "embeddings": queue(encoded, ready, ready, with_images, prefilling),
        "prefill": queue(ready, requests["prefill_start"], prefilled, accepted, prefilling),
        "decode": queue(first_token, decode_ready, end, decodes, decoding),
    }
