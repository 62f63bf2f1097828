"""Whether more comes to a queue than its servers do: arrivals held against what they do when they must.

While a queue never empties, its servers work as fast as they can, whatever they are: a device, several, or a
batch with as many members as fit into memory. What they do in that time is their capacity, which a record
shows without knowing anything of them. It is taken over the last time that the queue was not empty, up to
the last arrival; the rate of arrivals over all of the time that is looked at, in which the servers also
filled up, or as it was declared.

Both rates have a standard error, from how unevenly equal times' worth of arrivals or of service comes:
bursts, trends and requests of unequal size make it larger (the method of batch means; Law, "Simulation
Modeling and Analysis", 2015, section 9.5). Their difference in standard errors tells how sure it is that the
load is above 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import erf, sqrt
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from triptych.record.logs import Column, Floats

_BLOCKS = 20
_NOT_EMPTY = 0.75
"""Share of the time of a block, mean over instances."""
_FEWEST_BLOCKS = 4
_LUMP = 2.0
"""Requests that leave a queue at once, on average, where batches are not topped up."""
_MOMENT = 1e-9
"""Seconds: what takes less takes no time."""
_FEWEST_PARTS = 8
"""Parts of a time, between departures, below which there is no standard error."""
_MOST_PARTS = 256
"""Instances that are looked at one by one."""
_DRAIN_SHARE = 0.02
"""Share of the time that the queue was not empty which working it off must take. A load of 1.02 leaves so
much, and no model of batch times tells a smaller one from 1."""
_GROWN_SHARE = 0.5
"""Share of the growth that the rates let expect: a queue that was long and does not grow is no overload."""
_UNSEEN = 1.5
"""Factor on the standard error where waiting cannot be told from being served: a queue that seems never empty
may have servers to spare."""


@dataclass(frozen=True)
class Queue:
    """Who waited for a phase, and when; all of shape (requests,), seconds."""

    arrival: Column
    """When each came to the deployment that has a turn in this queue; NaN for the others."""
    ready: Column
    """When each came to this queue; NaN for those that have not."""
    left: Column
    """When each left it, served or given up; NaN for those that have not."""
    done: Column
    """When the service of each ended that had left to be served; NaN: unknown."""
    place: Column
    """Number of the instance at which each waited; all the same where that is not known."""
    seen: bool = True
    """False: from outside, where being served is part of the wait."""

    def length(self, time: float) -> int:
        """Requests that wait then."""
        return int((self.ready <= time).sum() - (self.left <= time).sum())

    @cached_property
    def parts(self) -> list[tuple[Queue, _Waiting]]:
        """The queue of each instance; of many instances, of some that are spread over all of them."""
        waited = np.flatnonzero(~np.isnan(self.ready))
        waited = waited[np.argsort(self.place[waited], kind="stable")]
        borders = np.flatnonzero(np.diff(self.place[waited])) + 1
        each = [rows for rows in np.split(waited, borders) if len(rows)]
        if len(each) > 1:  # those without a place ended before they had one
            each = [rows for rows in each if self.place[rows[0]] >= 0]
        each = each[:: -(-len(each) // _MOST_PARTS) or 1]
        parts = [self._of(rows) for rows in each]
        return [(part, _Waiting(part)) for part in parts]

    @cached_property
    def instances(self) -> int:
        """Number of instances at which a request waited."""
        places = np.unique(self.place[~np.isnan(self.ready)])
        return max(int((places >= 0).sum()), 1)

    def _of(self, rows: npt.NDArray[np.intp]) -> Queue:
        columns = (self.arrival, self.ready, self.left, self.done, self.place)
        arrival, ready, left, done, place = (column[rows] for column in columns)
        return Queue(arrival, ready, left, done, place, self.seen)


@dataclass(frozen=True)
class Saturation:
    """A queue that was not empty for a while up to the last arrival."""

    arrival_rate: float
    """Requests/s that came for it."""
    capacity: float
    """Requests/s that left it meanwhile."""
    error: float
    """Standard error of their difference, requests/s."""
    seconds: float
    """For which it was not empty."""
    growth: float
    """Requests by which it became longer in that time."""
    length: int
    """Requests in it at the last arrival."""

    @property
    def sure(self) -> float:
        """Probability that more come than can be served, by the normal distribution; from 0 to 1."""
        return (1 + erf((self.arrival_rate - self.capacity) / self.error / sqrt(2))) / 2

    @property
    def outpaced(self) -> bool:
        """Whether the queue grew as it does where more comes than is served, by more than a moment's work."""
        expected = (self.arrival_rate - self.capacity) * self.seconds
        drain = self.length / self.capacity
        return self.growth > _GROWN_SHARE * max(expected, 0.0) and drain > _DRAIN_SHARE * self.seconds


def saturation(queue: Queue, begin: float, end: float, *, rate: float | None = None) -> Saturation | None:
    """What a queue says of the time from `begin` to `end`, or None if it was not the bottleneck at its end.

    Args:
        queue: who waited when.
        begin: seconds.
        end: seconds, above `begin`: the last arrival.
        rate: at which requests are declared to come for this queue, requests/s; None: as they came.
    """
    parts = queue.parts
    if not parts:
        return None
    edges = np.linspace(begin, end, _BLOCKS + 1)
    not_empty = np.mean([np.diff(waiting.upto(edges)) for _, waiting in parts], axis=0) / np.diff(edges)
    empty = np.flatnonzero(not_empty < _NOT_EMPTY)
    first = int(empty[-1]) + 1 if len(empty) else 0
    if _BLOCKS - first < _FEWEST_BLOCKS:
        return None
    since, share = edges[first], float(not_empty[first:].mean())
    came, departed = _rate(queue.arrival, begin, end), _rate(queue.left, since, end)
    if came is None or departed is None:
        return None
    served = _served(parts, np.linspace(since, end, _BLOCKS + 1), queue.instances / len(parts))
    if served is None:
        return None
    if rate is not None and queue.seen:
        came = _Rate(rate, 0.0)
    # Batches of all that wait are as large as chance makes them, and may not be as large as they could be.
    in_lumps = departed.variance if departed.at_once >= _LUMP else 0.0
    error = sqrt(came.variance + max(served.variance, in_lumps) / share**2)
    return Saturation(
        arrival_rate=came.value,
        capacity=served.value / share,
        error=error if queue.seen else _UNSEEN * error,
        seconds=float(end - since) * share,
        growth=float(queue.length(end) - queue.length(since)),
        length=queue.length(end),
    )


class _Rate(NamedTuple):
    """Rate of things that happen one after the other."""

    value: float
    """1/s."""
    variance: float
    """Variance of the value, 1/s^2."""
    at_once: float = 1.0
    """How many happen at the same time, on average."""


def _rate(times: Column, begin: float, end: float) -> _Rate | None:
    """How often something happened from `begin` to `end`; None: too seldom to tell.

    The time is cut where something happened, as many at once may: a part has the things at its end.
    """
    at, counts = np.unique(times[(times >= begin) & (times <= end)], return_counts=True)
    cuts = np.unique(np.searchsorted(at, np.linspace(begin, end, _BLOCKS + 1)))
    cuts = cuts[cuts < len(at)]
    if len(cuts) <= _FEWEST_PARTS:
        return None
    happened, seconds = np.diff(np.cumsum(counts)[cuts]), np.diff(at[cuts])
    whole = float(seconds.sum())
    value = float(happened.sum()) / whole
    uneven = happened - value * seconds
    # A count is of whole things: one more or less proves nothing.
    variance = max(float((uneven**2).sum()) * len(uneven) / (len(uneven) - 1), 1.0)
    return _Rate(value, variance / whole**2, float(counts.mean()))


class _Waiting:
    """For how long at least one request waited in a queue, cumulated over time."""

    def __init__(self, queue: Queue) -> None:
        left = queue.left[~np.isnan(queue.left)]
        ready = queue.ready[~np.isnan(queue.ready)]
        times = np.concatenate([ready, left])
        steps = np.concatenate([np.ones(len(ready)), -np.ones(len(left))])
        order = np.argsort(times, kind="stable")
        length = np.cumsum(steps[order])
        self._times = times[order]
        self._upto = np.append(0.0, np.cumsum(np.diff(self._times) * (length[:-1] > 0)))
        self._waits_on = bool(length[-1] > 0)

    def upto(self, times: Floats) -> Floats:
        """Seconds up to each of these times."""
        after = np.maximum(times - self._times[-1], 0.0) * self._waits_on
        return np.asarray(np.interp(times, self._times, self._upto) + after)


def _served(parts: Sequence[tuple[Queue, _Waiting]], edges: Floats, times: float) -> _Rate | None:
    """How many requests' worth of service was done a second while a request waited; None: none.

    Service is taken to go on evenly from a request's leaving the queue to its end. Departures alone come in
    lumps, as irregular as the arrivals that they once were, and would tell it of a much longer time only.

    Args:
        parts: the queues of instances.
        edges: of equal blocks of time.
        times: as many instances as these there are.
    """
    served, took = np.zeros(len(edges) - 1), []
    for queue, waiting in parts:
        # A service without an end known, or of no length, is done at once.
        done = np.where(np.isnan(queue.done), queue.left, np.maximum(queue.done, queue.left))
        takes_part = (queue.left <= edges[-1]) & (done >= edges[0])
        left, done = queue.left[takes_part], done[takes_part]
        takes = np.maximum(done - left, _MOMENT)
        begins, ends = waiting.upto(left - _MOMENT), waiting.upto(done)
        share = np.where(takes > _MOMENT, ends - begins, _MOMENT) / takes
        served += _spread(begins, ends, share, waiting.upto(edges))
        took.append(takes)
    takes = np.concatenate(took)
    if not served.sum() > 0:
        return None
    seconds, total = float(edges[-1] - edges[0]), float(served.sum())
    between_blocks = float(np.var(served, ddof=1)) * len(served)
    # The mean service of as many requests as took part is not known better than that.
    between_requests = total * float(np.var(takes)) / float(takes.mean()) ** 2
    variance = max(between_blocks, between_requests, 1.0)
    return _Rate(times * total / seconds, times**2 * variance / seconds**2)


def _spread(begins: Floats, ends: Floats, amounts: Floats, edges: Floats) -> Floats:
    """How much falls between two edges each, of amounts that are spread evenly from a begin to an end."""
    in_whole = np.bincount(np.searchsorted(edges, ends), amounts, minlength=len(edges) + 1)
    upto = np.cumsum(in_whole)[: len(edges)]
    for number, edge in enumerate(edges):
        under_way = (begins < edge) & (ends > edge)
        begin, end = begins[under_way], ends[under_way]
        upto[number] += float((amounts[under_way] * (edge - begin) / (end - begin)).sum())
    return np.asarray(np.diff(upto))
