"""A predicted run beside a measured one of the same requests, and the error between them.

Error is (predicted - measured) / measured throughout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Self

import numpy as np

from triptych.record import Run, summarise
from triptych.record.logs import Floats
from triptych.record.statistics import distribution

METRICS = ("ttft", "tpot", "e2e")
"""Compared for each request."""
STATISTICS = ("mean", "p50", "p90", "p99")
RATES = ("output_tokens", "requests")
"""Compared as a whole, per second."""
RATE = "rate"
"""What stands for a statistic where there is a rate."""
_CONFIDENCE = 0.95


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of the requests of a run, wherever that is known from.

    Raises:
        ValueError: the metrics differ in length.
    """

    latency: Mapping[str, Floats]
    """Of METRICS those that are known, shape (requests,), seconds; NaN where a request has none."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Of RATES those that are known, per second."""

    def __post_init__(self) -> None:
        if len({len(values) for values in self.latency.values()}) > 1:
            raise ValueError("the metrics differ in length")

    def __len__(self) -> int:
        """Requests."""
        return len(next(iter(self.latency.values()), ()))

    @classmethod
    def of(cls, run: Run) -> Self:
        """That of a run record.

        Raises:
            ValueError: the run was read from a folder without all its batches.
        """
        rates = summarise(run).throughput
        return cls(
            {name: run.column(name) for name in METRICS},
            {"output_tokens": rates.output_tokens, "requests": rates.qps},
        )


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two outcomes, request by request."""

    predicted: Outcome
    measured: Outcome

    def pair(self, metric: str) -> tuple[Floats, Floats]:
        """Predicted and measured, shapes (n,), seconds, of the n requests that have the metric on both sides.

        Only these are compared: a request that failed on one side would move that side's percentiles.
        """
        predicted, measured = (side.latency.get(metric) for side in (self.predicted, self.measured))
        if predicted is None or measured is None:
            return np.empty(0), np.empty(0)
        both = ~(np.isnan(predicted) | np.isnan(measured))
        return predicted[both], measured[both]

    def statistic(self, metric: str, statistic: str) -> tuple[float | None, float | None]:
        """Predicted and measured: a statistic of a latency, or a rate; None where there is none."""
        if statistic == RATE:
            return self.predicted.rates.get(metric), self.measured.rates.get(metric)
        predicted, measured = (distribution(values).at(statistic) for values in self.pair(metric))
        return predicted, measured

    def one_sided(self) -> tuple[int, int]:
        """Requests that finished only as predicted, and only as measured; where E2E is known of both."""
        sides = [side.latency.get("e2e") for side in (self.predicted, self.measured)]
        if sides[0] is None or sides[1] is None:
            return 0, 0
        predicted, measured = ~np.isnan(sides[0]), ~np.isnan(sides[1])
        return int((predicted & ~measured).sum()), int((measured & ~predicted).sum())


def compare(predicted: Run | Outcome, measured: Run | Outcome) -> Comparison:
    """Lays two records of the same requests, in the same order, side by side.

    Raises:
        ValueError: they are not of the same requests, or `Outcome.of` cannot read one.

    Example:
        >>> import numpy as np
        >>> predicted = Outcome({"ttft": np.array([0.9, 1.1, 2.0])})
        >>> measured = Outcome({"ttft": np.array([1.0, 1.0, np.nan])})
        >>> compare(predicted, measured).statistic("ttft", "mean")
        (1.0, 1.0)
    """
    sides = [side if isinstance(side, Outcome) else Outcome.of(side) for side in (predicted, measured)]
    if len(sides[0]) != len(sides[1]):
        raise ValueError(f"{len(sides[0])} requests are predicted and {len(sides[1])} measured")
    return Comparison(*sides)


@dataclass(frozen=True)
class Row:
    """One figure over all repetitions."""

    metric: str
    """Of METRICS or RATES."""
    statistic: str
    """Of STATISTICS, or RATE."""
    predicted: float | None
    """Mean over the repetitions, s or 1/s; None: no request has it on both sides."""
    measured: float | None
    """Likewise."""
    interval: float | None
    """Half the width of the 95 % confidence interval of `measured` (Student's t over the repetitions); None
    with a single one."""

    @property
    def error(self) -> float | None:
        """(predicted - measured) / measured."""
        return relative_error(self.predicted, self.measured)


def rows(comparisons: Sequence[Comparison]) -> list[Row]:
    """Every statistic of every metric, then the rates, over the repetitions of one experiment."""
    names = [(metric, statistic) for metric in METRICS for statistic in STATISTICS]
    names += [(metric, RATE) for metric in RATES]
    return [_row(metric, statistic, comparisons) for metric, statistic in names]


def request_errors(comparisons: Sequence[Comparison], metric: str) -> Floats:
    """The error of each request of all repetitions, shape (n,)."""
    pairs = [comparison.pair(metric) for comparison in comparisons]
    predicted, measured = (np.concatenate([np.empty(0), *side]) for side in zip(*pairs, strict=True))
    known = measured > 0
    errors: Floats = (predicted[known] - measured[known]) / measured[known]
    return errors


def relative_error(predicted: float | None, measured: float | None) -> float | None:
    """(predicted - measured) / measured; None where that says nothing."""
    return (predicted - measured) / measured if predicted is not None and measured else None


def _row(metric: str, statistic: str, comparisons: Sequence[Comparison]) -> Row:
    values = [comparison.statistic(metric, statistic) for comparison in comparisons]
    known = np.array([pair for pair in values if None not in pair], np.float64).reshape(-1, 2)
    if not len(known):
        return Row(metric, statistic, None, None, None)
    predicted, measured = known.mean(axis=0).tolist()
    return Row(metric, statistic, predicted, measured, _half_width(known[:, 1]))


def _half_width(values: Floats) -> float | None:
    """Half of the confidence interval of a mean of values that are normally distributed."""
    count = len(values)
    if count < 2:
        return None
    from scipy.special import stdtrit

    quantile = float(stdtrit(count - 1, (1 + _CONFIDENCE) / 2))
    return quantile * float(values.std(ddof=1)) / sqrt(count)
