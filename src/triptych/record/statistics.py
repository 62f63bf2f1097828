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


def percentile_with_infinities(values: Floats, infinite: int, percent: float) -> float:
    """A percentile of the values (no NaN), shape (n,), and `infinite` more that are beyond all of them."""
    count = len(values) + infinite
    if not count:
        return float("nan")
    position = (count - 1) * percent / 100
    below = int(position)
    above = min(below + 1, count - 1) if position > below else below
    if above >= len(values):
        return float("inf")
    low, high = np.partition(values, [below, above])[[below, above]]
    return float(low + (high - low) * (position - below))
