"""How sure a prediction is: the run again with every batch slower, and faster, by what is not known of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, inf, isfinite, isnan
from typing import Any

import numpy as np

from triptych.plan import PoolPlan
from triptych.record import Run
from triptych.record.metrics import latencies
from triptych.record.overload import growing
from triptych.record.slo import slo_values
from triptych.spec.slo import METRICS, STATISTICS

LEVEL = 0.9
_QUANTILE = 1.645
"""Of the standard normal distribution, at the ends of a 90 % interval."""


@dataclass(frozen=True)
class Figures:
    """What an interval is made of, of one run."""

    latency: dict[str, dict[str, float]]
    """Metric -> statistic -> seconds; without metrics that no request has."""
    output_tokens: float | None
    """Tokens/s."""
    slo: list[float]
    """Seconds, of each bound; infinite where it grows or requests failed, NaN where it applies to none."""


def prediction_interval(
    run: Run, plans: Sequence[PoolPlan], again: Callable[[list[dict[str, float]]], list[Figures] | None]
) -> dict[str, Any] | None:
    """A 90 % interval of the latencies and of throughput; None if it was not waited for.

    The time of every batch is uncertain by what its operators' estimators get wrong at sizes they were not
    shown, or by how far rooflines are from measurements (`IterationCost.deviation`). All batches of a pool,
    and all pools, are taken to err together, which is the widest that the interval can be.

    Args:
        run: predicted with `plans`, with the SLO it is held to.
        plans: of the pools.
        again: runs the same requests with every batch so many times as long, by pool, for each of several;
            None if it was stopped.

    Returns:
        Metric -> statistic -> [low, high], in seconds; `output_tokens` in tokens/s; `deviation` by pool.
        `slo`: for each bound, as "ttft.p99", [low, high] of what is held to it; None: it has no limit, as it
        grows or requests failed.
    """
    deviations = {plan.name: _deviation(run, plan) for plan in plans}
    ends = again(
        [
            {name: exp(quantile * deviation) for name, deviation in deviations.items()}
            for quantile in (-_QUANTILE, _QUANTILE)
        ]
    )
    if ends is None:
        return None
    interval: dict[str, Any] = {"level": LEVEL, "deviation": deviations}
    for metric in METRICS:
        known = [end.latency[metric] for end in ends if metric in end.latency]
        if len(known) == len(ends):
            interval[metric] = {name: sorted(values[name] for values in known) for name in STATISTICS}
    tokens = [end.output_tokens for end in ends if end.output_tokens is not None]
    if len(tokens) == len(ends):
        interval["output_tokens"] = {"rate": sorted(tokens)}
    if run.slo:
        # Faster batches may also fall worse together; the prediction itself is always within.
        values = zip(*(end.slo for end in ends), figures(run).slo, strict=True)
        names = [f"{metric}.{statistic}" for metric, statistic, _ in run.slo]
        interval["slo"] = {name: _bounds(of) for name, of in zip(names, values, strict=True)}
    return interval


def figures(run: Run) -> Figures:
    """The figures of one run."""
    latency = latencies(run)
    return Figures(
        latency={
            metric: {name: latency[metric].at(name) or 0.0 for name in STATISTICS}
            for metric in METRICS
            if latency[metric].count
        },
        output_tokens=float(run.requests["generated_tokens"].sum()) / run.horizon if run.horizon else None,
        slo=slo_values(run, growing(run.requests, run.meta.get("declared_rate")), run.slo),
    )


def _bounds(values: Sequence[float]) -> list[float | None]:
    """The least and the largest; of no request is neither good nor bad."""
    known = [value for value in values if not isnan(value)] or [inf]
    return [value if isfinite(value) else None for value in (min(known), max(known))]


def _deviation(run: Run, plan: PoolPlan) -> float:
    """Of the logarithm of the time of a pool's batches."""
    numbers = {instance.id for instance in run.instances if instance.pool == plan.name}
    lanes = [lane.columns for lane in run.lanes if lane.instance in numbers]
    if not lanes:
        return 0.0
    columns = {name: np.concatenate([lane[name] for lane in lanes]) for name in lanes[0]}
    return plan.cost.deviation(columns)
