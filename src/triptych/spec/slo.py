"""Service-level objectives: bounds on the latency that users see."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from triptych.spec.base import Spec
from triptych.spec.units import Seconds

Metric = Literal["ttft", "tpot", "itl", "e2e"]
Statistic = Literal["mean", "p50", "p90", "p95", "p99", "p99.9"]
METRICS: tuple[Metric, ...] = get_args(Metric)
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)

Bound = Annotated[Seconds, Field(gt=0)]


class Slo(Spec):
    """For each metric, the largest value that a statistic over all requests may take.

    A request counts towards goodput when each of its own metrics is within the widest bound on it, and each
    statistic of its own inter-token latencies within the bound on that.
    """

    ttft: dict[Statistic, Bound] = Field(default={})
    """Time to first token."""
    tpot: dict[Statistic, Bound] = Field(default={})
    """Mean time per output token after the first. It does not apply to answers of one token."""
    itl: dict[Statistic, Bound] = Field(default={})
    """Time from one output token to the next, over all of them of all requests."""
    e2e: dict[Statistic, Bound] = Field(default={})
    """From arrival to the last token."""

    @field_validator("ttft", "tpot", "itl", "e2e", mode="before")
    @classmethod
    def _known_statistics(cls, value: object) -> object:
        if not isinstance(value, dict):
            raise ValueError("give a statistic and its bound, such as {p99: 2 s}")
        for name in value:
            if name not in STATISTICS:
                raise ValueError(f"{name!r} is no statistic; use one of {', '.join(STATISTICS)}")
        return {name: value[name] for name in STATISTICS if name in value}

    @field_validator("ttft", "tpot", "itl", "e2e")
    @classmethod
    def _higher_percentiles_are_wider(cls, value: dict[Statistic, float]) -> dict[Statistic, float]:
        percentiles = [name for name in value if name != "mean"]
        for low, high in pairwise(percentiles):
            if value[low] > value[high]:
                raise ValueError(
                    f"{low} may be {value[low]:g} s but {high} only {value[high]:g} s, so the bound "
                    f"on {low} says nothing; remove it or make it the smaller one"
                )
        return value

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if not self.bounds():
            raise ValueError("no bound is given; add one to ttft, tpot, itl or e2e")
        return self

    def bounds(self) -> list[tuple[Metric, Statistic, float]]:
        """Every bound as (metric, statistic, seconds), in a fixed order."""
        return [
            (metric, statistic, seconds)
            for metric in METRICS
            for statistic, seconds in getattr(self, metric).items()
        ]
