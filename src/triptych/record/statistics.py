"""Means and percentiles, of plain and of counted values."""

from __future__ import annotations

import numpy as np

from triptych.record.logs import Floats, Ints
from triptych.record.summary import Distribution

_PERCENTS = np.array([50, 90, 95, 99, 99.9, 100])
_NOTHING = Distribution(0, None, None, None, None, None, None, None)


def distribution(values: Floats) -> Distribution:
    """Of all values that are not NaN, shape (n,)."""
    values = values[~np.isnan(values)]
    if not len(values):
        return _NOTHING
    return Distribution(len(values), float(values.mean()), *np.percentile(values, _PERCENTS).tolist())


def counted_distribution(values: Floats, counts: Ints) -> Distribution:
    """Of values of which each occurs so many times, shapes (n,); as `distribution` of them all."""
    if not len(values):
        return _NOTHING
    order = np.argsort(values)
    values, upto = values[order], np.cumsum(counts[order])
    total = int(upto[-1])
    position = (total - 1) * _PERCENTS / 100
    below = np.floor(position)
    low = values[np.searchsorted(upto, below, side="right")]
    high = values[np.searchsorted(upto, np.minimum(below + 1, total - 1), side="right")]
    percentiles = low + (high - low) * (position - below)
    return Distribution(total, float((values * counts[order]).sum() / total), *percentiles.tolist())


def percentile_with_infinities(values: Floats, counts: Ints, infinite: int, percent: float) -> float:
    """A percentile of values (no NaN) of which each occurs so many times, and of `infinite` beyond them all.

    Args:
        values: shape (n,), in any order.
        counts: shape (n,).
        infinite: how many are infinite.
        percent: from 0 to 100.
    """
    order = np.argsort(values)
    upto = np.cumsum(counts[order])
    total = int(upto[-1] if len(upto) else 0) + infinite
    if not total:
        return float("nan")

    def at(place: int) -> float:
        position = int(np.searchsorted(upto, place, side="right"))
        return float(values[order[position]]) if position < len(order) else float("inf")

    position = (total - 1) * percent / 100
    below = int(position)
    low = at(below)
    if position == below or low == float("inf"):
        return low
    return low + (at(below + 1) - low) * (position - below)
