"""Distributions of the tokens of a prompt or an output."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, field_validator, model_validator

from triptych.spec.base import Spec


class Range(Spec):
    """A whole number between `low` and `high`, both included, each as likely."""

    low: PositiveInt
    high: PositiveInt

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) is above high ({self.high}); swap them")
        return self


class Fixed(Spec):
    """The same length for every request."""

    kind: Literal["fixed"]
    tokens: PositiveInt


class Uniform(Range):
    """Every length between `low` and `high` tokens, each as likely."""

    kind: Literal["uniform"]


class LogNormal(Spec):
    """A length whose logarithm is normal; rounded, and moved into `low` .. `high` where outside it."""

    kind: Literal["log-normal"]
    mean: PositiveFloat | None = None
    """Tokens, before the limits apply; give this or `median`."""
    median: PositiveFloat | None = None
    sigma: PositiveFloat
    """Standard deviation of the natural logarithm."""
    low: PositiveInt = 1
    high: PositiveInt | None = None

    @model_validator(mode="after")
    def _well_formed(self) -> Self:
        if (self.mean is None) == (self.median is None):
            raise ValueError("give either mean or median, and not both")
        if self.high is not None and self.low > self.high:
            raise ValueError(f"low ({self.low}) is above high ({self.high}); swap them")
        return self


_PERCENTILE = re.compile(r"p(\d+(?:\.\d+)?)")


class Quantiles(Spec):
    """A distribution known by its quantiles: linear between those that are given, then rounded."""

    kind: Literal["quantiles"]
    values: dict[str, Annotated[float, Field(ge=1)]]
    """Percentile -> tokens, such as {p0: 2, p50: 1020, p100: 14050}; p0 and p100 are the limits."""

    @field_validator("values")
    @classmethod
    def _a_distribution(cls, value: dict[str, float]) -> dict[str, float]:
        for name in value:
            match = _PERCENTILE.fullmatch(name)
            if match is None or float(match[1]) > 100:
                raise ValueError(f"{name!r} is no percentile; write p0 to p100, such as p99.9")
        if not {"p0", "p100"} <= value.keys():
            raise ValueError("the limits are missing; give p0 and p100")
        ordered = sorted(value, key=lambda name: float(name[1:]))
        for low, high in pairwise(ordered):
            if value[low] > value[high]:
                raise ValueError(
                    f"{low} ({value[low]:g}) is above {high} ({value[high]:g}); "
                    "values rise with the percentile"
                )
        return {name: value[name] for name in ordered}

    @property
    def points(self) -> tuple[list[float], list[float]]:
        """Probabilities from 0 to 1, rising, and the tokens at each."""
        return [float(name[1:]) / 100 for name in self.values], list(self.values.values())


class TraceLengths(Spec):
    """The lengths of the trace, in its order; from its start again when they are used up.

    A prompt that comes from the trace brings the images and prefix ids of its request, also when it is
    repeated.
    """

    kind: Literal["trace"]


def one_of_kinds(*names: str) -> BeforeValidator:
    """Refuses what has no field `kind` with one of these names."""

    def check(value: object) -> object:
        if isinstance(value, Mapping) and value.get("kind") not in names:
            raise ValueError(f"give it a kind: one of {', '.join(names)}")
        if not isinstance(value, (Mapping, Spec)):
            raise ValueError(f"write it as {{kind: ...}} with one of {', '.join(names)}")
        return value

    return BeforeValidator(check)


Lengths = Annotated[
    Fixed | Uniform | LogNormal | Quantiles | TraceLengths,
    Field(discriminator="kind"),
    one_of_kinds("fixed", "uniform", "log-normal", "quantiles", "trace"),
]
