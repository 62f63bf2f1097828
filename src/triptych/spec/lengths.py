"""Distributions of the tokens of a prompt or an output."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails

from triptych.spec.base import Spec

# Far beyond any context window: sums over all requests stay whole numbers of 64 bits.
MOST_TOKENS = 10_000_000
Tokens = Annotated[PositiveInt, Field(le=MOST_TOKENS)]


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
    tokens: Tokens


class Uniform(Range):
    """Every length between `low` and `high` tokens, each as likely."""

    kind: Literal["uniform"]
    low: Tokens
    high: Tokens


class LogNormal(Spec):
    """A length whose logarithm is normal; rounded, and moved into `low` .. `high` where outside it."""

    kind: Literal["log-normal"]
    mean: Annotated[PositiveFloat, Field(le=MOST_TOKENS)] | None = None
    """Tokens, before the limits apply; give this or `median`."""
    median: Annotated[PositiveFloat, Field(le=MOST_TOKENS)] | None = None
    sigma: Annotated[PositiveFloat, Field(le=5)]
    """Standard deviation of the natural logarithm."""
    low: Tokens = 1
    high: Tokens = MOST_TOKENS

    @model_validator(mode="after")
    def _well_formed(self) -> Self:
        if (self.mean is None) == (self.median is None):
            raise ValueError("give either mean or median, and not both")
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) is above high ({self.high}); swap them")
        return self


_PERCENTILE = re.compile(r"p(\d+(?:\.\d+)?)")


class Quantiles(Spec):
    """A distribution known by its quantiles: linear between those that are given, then rounded."""

    kind: Literal["quantiles"]
    values: dict[str, Annotated[float, Field(ge=1, le=MOST_TOKENS)]]
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
        if isinstance(value, Mapping):
            kind = value.get("kind")
            if kind is None:
                raise ValueError(f"give it a kind: one of {', '.join(names)}")
            if kind not in names:
                quoted = [repr(name) for name in names]
                expected = f"{', '.join(quoted[:-1])} or {quoted[-1]}"
                wrong = InitErrorDetails(
                    type="literal_error", loc=("kind",), input=kind, ctx={"expected": expected}
                )
                raise ValidationError.from_exception_data("kind", [wrong])
        if not isinstance(value, (Mapping, Spec)):
            raise ValueError(f"write it as {{kind: ...}} with one of {', '.join(names)}")
        return value

    return BeforeValidator(check)


Lengths = Annotated[
    Fixed | Uniform | LogNormal | Quantiles | TraceLengths,
    Field(discriminator="kind"),
    one_of_kinds("fixed", "uniform", "log-normal", "quantiles", "trace"),
]
