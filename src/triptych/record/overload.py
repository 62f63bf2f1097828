"""Whether arrivals outpaced service, and whether the trace is long enough to tell; from the record alone.

A queue whose arrivals are outpaced has no mean wait: the wait grows as long as requests come. A stable
queue at high load also grows now and then; so growth must be more than chance. The arrival window is cut
into blocks of equal time, and the queue is overloaded if over the window (or its last three quarters, or
its last half)

- its growth per block is above zero by `_SIGMAS` standard errors (those of the blocks' own
  differences: a single burst is no trend), and
- working off what is left at the last arrival takes more than `_DRAIN_SHARE` of the window.

Where batches may become ever larger no queue forms: `system.py` looks at the requests under way instead.
Closed-loop and at-once arrivals never show overload: their queue is longest at the start.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from triptych.record.logs import Column, Columns, Floats, Ints
from triptych.record.summary import Overload, PhaseQueue
from triptych.record.system import count_upto, in_system

_BLOCKS = 20
_BEGINS = (1, 5, 10)
"""Blocks left out at the start: the first, in which service itself sets in, and more."""
_SIGMAS = 3.0
_DRAIN_SHARE = 0.02
"""M/D/1 at load rho leaves about rho - 1 of the window: 0.02 is too little to tell from load 1."""
_TOTAL = ("e2e", "e2e_per_token")
_PART_OF = {
    "encode": ("ttft", "encode_queue", *_TOTAL),
    "prefill": ("ttft", "prefill_queue", *_TOTAL),
    "decode": ("tpot", "itl", "decode_queue", *_TOTAL),
    "system": ("tpot", "itl", *_TOTAL),
}
"""Latencies that a wait is part of, by what is waited for."""


def find_overload(requests: Columns) -> tuple[Overload | None, bool]:
    """The overload of a run, if there is one, and whether its latencies had settled.

    They had if neither a queue nor the number of requests under way grew when the last request came, and
    the requests of the first half had ended by then. Arrivals at a single instant have nothing to settle.

    Args:
        requests: the raw columns; those of phases may be NaN throughout (measured from outside).
    """
    arrival = requests["arrival"]
    came = ~np.isnan(arrival)
    if not came.any():
        return None, True
    begin, last = float(np.min(arrival[came])), float(np.max(arrival[came]))
    if last <= begin:
        return None, True
    edges = np.linspace(begin, last, _BLOCKS + 1)
    arrived = count_upto(edges, arrival)
    found = [
        (phase, queue, first)
        for phase, queue in _queues(requests, edges).items()
        if (first := _grows_from(queue, arrived, edges)) is not None
    ]
    if not found:
        system = in_system(arrival[came], requests["end"][came], edges)
        if not system.piles_up:
            return None, system.settled
        found = [("system", system.count, _BLOCKS // 2)]
    block = (last - begin) / _BLOCKS
    first = min(first for _, _, first in found)
    seconds = (_BLOCKS - first) * block
    grown = sum(float(queue[-1] - queue[first]) for _, queue, _ in found)
    came_then = float(arrived[-1] - arrived[first])
    served_rate = max(came_then - grown, 0.0) / seconds
    left = sum(float(queue[-1]) for _, queue, _ in found)
    queues = [
        PhaseQueue(phase, float(queue[-1] - queue[first]) / seconds, int(queue[-1]))
        for phase, queue, _ in found
    ]
    overload = Overload(
        arrival_rate=came_then / seconds,
        served_rate=served_rate,
        drain_seconds=left / served_rate if served_rate else None,
        queues=tuple(sorted(queues, key=lambda queue: -queue.growth)),
        metrics=tuple(sorted({metric for phase, _, _ in found for metric in _PART_OF[phase]})),
    )
    return overload, False


def growing(requests: Columns) -> tuple[str, ...]:
    """Latencies that only tell how long the trace is; see `Overload.metrics`."""
    overload, _ = find_overload(requests)
    return () if overload is None else overload.metrics


def _grows_from(queue: Ints, arrived: Ints, edges: Floats) -> int | None:
    """The block from which on the queue grows without bound, or None if it does not."""
    for first in _BEGINS:
        changes = np.diff(queue[first:])
        growth = float(queue[-1] - queue[first])
        # A queue moves by whole requests: differences that happen to be all equal prove nothing.
        noise = max(float(np.std(changes, ddof=1)), 1.0) * np.sqrt(len(changes))
        served = float(arrived[-1] - arrived[first]) - growth
        drain_share = queue[-1] * (1 - first / _BLOCKS) / served if served > 0 else np.inf
        if growth > _SIGMAS * noise and drain_share > _DRAIN_SHARE:
            return first
    return None


def _queues(requests: Columns, edges: Floats) -> Mapping[str, Ints]:
    """Requests that wait for each phase at each edge. Decode's wait is for memory and for the KV."""
    first_token = requests["first_token"]
    if np.isnan(requests["prefill_start"]).all():
        return {"prefill": _waiting(edges, requests["arrival"], first_token, requests["end"])}
    with_images = requests["images"] > 0
    decodes = requests["output_tokens"] > 1
    return {
        "encode": _waiting(
            edges,
            np.where(with_images, requests["arrival"], np.nan),
            requests["encode_start"],
            requests["end"],
        ),
        "prefill": _waiting(edges, requests["prefill_ready"], requests["prefill_start"], requests["end"]),
        "decode": _waiting(
            edges, np.where(decodes, first_token, np.nan), requests["decode_ready"], requests["end"]
        ),
    }


def _waiting(edges: Floats, ready: Column, start: Column, end: Column) -> Ints:
    """How many are ready and neither started nor given up, at each edge."""
    left = np.where(np.isnan(start), end, start)
    return count_upto(edges, ready) - count_upto(edges, np.where(np.isnan(ready), np.nan, left))
