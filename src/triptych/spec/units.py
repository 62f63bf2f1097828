"""Quantities with units in declared files: `80 GB`, `3.35 TB/s`, `989 TFLOP/s`, `10 us`, `5 min`.

In code every quantity is a plain number in the base unit: seconds, bytes, FLOP, watts, dollars.
A bare number in a file is taken to be in the base unit already.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

_NUMBER = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(.*?)\s*")

_DECIMAL = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}

SECONDS = {
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "µs": 1e-6,
    "ns": 1e-9,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
BYTES = {f"{prefix}B": scale for prefix, scale in {**_DECIMAL, **_BINARY}.items()}
BYTES_PER_SECOND = {f"{unit}/s": scale for unit, scale in BYTES.items()}
FLOPS = {f"{prefix}{unit}": s for prefix, s in _DECIMAL.items() for unit in ("FLOP/s", "FLOPS")}


def parse_quantity(value: object, units: dict[str, float]) -> object:
    """A number in the base unit from `"80 GB"`-like text; anything else passes through.

    Raises:
        ValueError: the text is not a number followed by one of `units`, or the value is a boolean.
    """
    if isinstance(value, bool):
        raise ValueError("must be a number with a unit, not true or false")
    if not isinstance(value, str):
        return value
    match = _NUMBER.fullmatch(value)
    if match is None or (match[2] and match[2] not in units):
        known = ", ".join(unit for unit in units if unit)
        raise ValueError(f"{value!r} is not a quantity; write a number and one of {known}")
    return float(match[1]) * (units[match[2]] if match[2] else 1.0)


def _unit(units: dict[str, float]) -> BeforeValidator:
    return BeforeValidator(lambda value: parse_quantity(value, units))


# The limits lie far from anything real: they keep results finite, and a slip of the pen from being simulated.
Seconds = Annotated[float, _unit(SECONDS), Field(ge=0, le=1e10)]
Bytes = Annotated[float, _unit(BYTES), Field(gt=0, le=1e18)]
BytesPerSecond = Annotated[float, _unit(BYTES_PER_SECOND), Field(ge=1, le=1e18)]
FlopPerSecond = Annotated[float, _unit(FLOPS), Field(ge=1, le=1e24)]
