"""How sure a prediction is: the run again with every batch slower, and faster, by what is not known of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import exp
from typing import Any

import numpy as np

from triptych.plan import PoolPlan
from triptych.record import Run

LEVEL = 0.9
_QUANTILE = 1.645
"""Of the standard normal distribution, at the ends of a 90 % interval."""
_STATISTICS: dict[str, Callable[[Any], Any]] = {
    "mean": np.mean,
    "p50": np.median,
    "p90": lambda values: np.percentile(values, 90),
    "p99": lambda values: np.percentile(values, 99),
}
_METRICS = ("ttft", "tpot", "e2e")


def prediction_interval(
    run: Run, plans: Sequence[PoolPlan], again: Callable[[list[PoolPlan]], Run]
) -> dict[str, Any]:
    """A 90 % interval of the latencies and of throughput.

    The time of every batch is uncertain by what its operators' estimators get wrong at sizes they were not
    shown, or by how far rooflines are from measurements (`IterationCost.deviation`). All batches of a pool,
    and all pools, are taken to err together, which is the widest that the interval can be.

    Args:
        run: predicted with `plans`.
        plans: of the pools.
        again: runs the same requests with other costs.

    Returns:
        Metric -> statistic -> [low, high], in seconds; `output_tokens` in tokens/s; `deviation` by pool.
    """
    deviations = {plan.name: _deviation(run, plan) for plan in plans}

    def at(quantile: float) -> Run:
        scaled = [
            replace(plan, cost=plan.cost.scaled(exp(quantile * deviations[plan.name]))) for plan in plans
        ]
        return again(scaled)

    ends = [at(-_QUANTILE), at(_QUANTILE)]
    interval: dict[str, Any] = {"level": LEVEL, "deviation": deviations}
    for metric in _METRICS:
        known = [values[~np.isnan(values)] for values in (end.column(metric) for end in ends)]
        if all(len(values) for values in known):
            interval[metric] = {
                name: sorted(float(statistic(values)) for values in known)
                for name, statistic in _STATISTICS.items()
            }
    tokens = [float(end.requests["generated_tokens"].sum()) / end.horizon for end in ends if end.horizon]
    if len(tokens) == len(ends):
        interval["output_tokens"] = {"rate": sorted(tokens)}
    return interval


def _deviation(run: Run, plan: PoolPlan) -> float:
    """Of the logarithm of the time of a pool's batches."""
    numbers = {instance.id for instance in run.instances if instance.pool == plan.name}
    lanes = [lane.columns for lane in run.lanes if lane.instance in numbers]
    if not lanes:
        return 0.0
    columns = {name: np.concatenate([lane[name] for lane in lanes]) for name in lanes[0]}
    return plan.cost.deviation(columns)
