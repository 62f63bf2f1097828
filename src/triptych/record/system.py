"""The requests under way: those that have come and have not ended. Do they pile up, or had they settled?

A scheduler whose batches may become ever larger admits whatever comes. If that is more than is served, it is
not a queue that grows but the batch, and with it the time of every iteration. A stable deployment fills up
too, for a while, so what grows is held against how long it has grown. Two series are read at the edges of
equal blocks of the arrivals' time:

count   requests under way.
lag     how long ago the request came whose place in the order of arrival is the number that have ended: the
        latency of requests that end in the order in which they come. A burst or a rising rate of arrival
        makes the count larger and leaves the lag as it is.

Both are compared between the second and the last quarter of the time; means over a quarter, as batches that
end together make both swing. Above load 1 the lag grows as time does: it is 7/3 of what it was, less what it
began with. At load 1 it grows as the square root of time (in a random walk, and where an iteration takes
longer by as much for each request): it is 1.53 of what it was; and less than that below.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erf, sqrt

import numpy as np

from triptych.record.logs import Column, Floats, Ints

_SIGMAS = 3.0
_PILES_UP, _STILL_GROWS = 1.9, 1.25
"""Lag in the last quarter over that in the second."""
_ENDED_SHARE = 0.9
"""A few requests may be far longer than the rest."""
_BEGUN_SHARE = 0.05
"""Of the requests that came in the first quarter: those that ended in it."""


@dataclass(frozen=True)
class InSystem:
    """What the requests under way say of a run."""

    count: Ints
    """Under way at each edge, shape (blocks + 1,)."""
    piles_up: bool
    """More come than are served: the count grew by more than a random walk of the arrivals would, and the lag
    nearly as time did. It must be the lag of requests that ended, not just the time that has passed: by the
    end of the first quarter some had, and by the last arrival those that came in the first quarter."""
    sure: float
    """Probability that a random walk of as many arrivals would have grown less."""
    settled: bool
    """The last requests have the latency that further ones would have: those of the first half had ended by
    the last arrival, and it is not so that the lag still rose and the count grew by more than one with a
    steady mean would (a Poisson number, but for the arrivals' own irregularity)."""


def in_system(arrival: Column, end: Column, edges: Floats) -> InSystem:
    """Judges the requests under way.

    Args:
        arrival: of the requests that came, seconds, shape (requests,); one at least.
        end: likewise, NaN for those that did not end.
        edges: from the first arrival to the last, equally spaced, shape (blocks + 1,); blocks are a multiple
            of four.
    """
    arrived, ended = count_upto(edges, arrival), count_upto(edges, end)
    count = arrived - ended
    oldest = np.append(np.sort(arrival), edges[-1])
    lag = edges - np.minimum(oldest[ended], edges)
    quarter = len(edges) // 4
    second, last = slice(quarter, 2 * quarter + 1), slice(3 * quarter, None)

    growth = float(count[last].mean() - count[second].mean())
    rises = float(lag[last].mean()) / max(float(lag[second].mean()), 1e-12)
    came = np.diff(arrived)
    of_arrivals = float(np.var(came, ddof=1))
    random_walk = np.sqrt(len(came) / 2 * (of_arrivals + came.mean()))
    steady = np.sqrt(count[last].mean() * max(of_arrivals / came.mean(), 1.0))

    def ended_of_first(edge: int) -> float:
        return float((end[arrival <= edges[edge]] <= edges[-1]).mean())

    return InSystem(
        count=count,
        piles_up=bool(
            growth > _SIGMAS * random_walk
            and rises > _PILES_UP
            and ended[quarter] >= _BEGUN_SHARE * arrived[quarter]
            and ended_of_first(quarter) >= _ENDED_SHARE
        ),
        sure=(1 + erf(growth / random_walk / sqrt(2))) / 2 if random_walk > 0 else 0.0,
        settled=bool(
            ended_of_first(2 * quarter) >= _ENDED_SHARE
            and not (growth > _SIGMAS * steady and rises > _STILL_GROWS)
        ),
    )


def count_upto(edges: Floats, times: Column) -> Ints:
    """How many of the times, but for NaN, are at or before each edge."""
    bins = np.searchsorted(edges, times[~np.isnan(times)])
    return np.cumsum(np.bincount(bins, minlength=len(edges) + 1))[: len(edges)]
