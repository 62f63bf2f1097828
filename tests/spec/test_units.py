"""Quantities with units: `80 GB` in a file is 80e9 in code."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.spec.base import Spec, SpecError
from triptych.spec.units import (
    BYTES,
    BYTES_PER_SECOND,
    FLOPS,
    SECONDS,
    Bytes,
    BytesPerSecond,
    FlopPerSecond,
    Seconds,
    parse_quantity,
)


class Sheet(Spec):
    time: Seconds = 0.0
    memory: Bytes = 1.0
    bandwidth: BytesPerSecond = 1.0
    speed: FlopPerSecond = 1.0


@pytest.mark.parametrize(
    ("text", "units", "value"),
    [
        ("80 GB", BYTES, 80e9),
        ("80GB", BYTES, 80e9),
        (" 80   GB ", BYTES, 80e9),
        ("80 GiB", BYTES, 80 * 2**30),
        ("512 KiB", BYTES, 2**19),
        ("1.5e3 kB", BYTES, 1.5e6),
        (".5 TB", BYTES, 5e11),
        ("+3 B", BYTES, 3),
        ("-3 B", BYTES, -3),
        ("4096", BYTES, 4096),
        ("3.35 TB/s", BYTES_PER_SECOND, 3.35e12),
        ("100 GiB/s", BYTES_PER_SECOND, 100 * 2**30),
        ("989 TFLOP/s", FLOPS, 989e12),
        ("989 TFLOPS", FLOPS, 989e12),
        ("10 us", SECONDS, 1e-5),
        ("10 µs", SECONDS, 1e-5),
        ("250 ms", SECONDS, 0.25),
        ("5 min", SECONDS, 300),
        ("2 h", SECONDS, 7200),
        ("1 d", SECONDS, 86400),
    ],
)
def test_text_is_a_number_and_a_unit(text: str, units: dict[str, float], value: float) -> None:
    assert parse_quantity(text, units) == pytest.approx(value, rel=1e-12)


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(sorted(BYTES)))
def test_any_number_may_stand_before_any_unit(number: float, unit: str) -> None:
    assert parse_quantity(f"{number!r} {unit}", BYTES) == number * BYTES[unit]


@pytest.mark.parametrize("value", [3, 2.5, None, [1], {"a": 1}])
def test_what_is_no_text_passes_through(value: object) -> None:
    assert parse_quantity(value, BYTES) is value


@pytest.mark.parametrize(
    "text",
    [
        "80 GiBB",
        "3 parsecs",
        "80 gb",
        "GB",
        "",
        " ",
        "8O GB",
        "80 GB/s",
        "1,000 GB",
        "nan GB",
        "inf",
        "0x10 B",
    ],
)
def test_anything_else_is_refused_with_the_units_that_are_known(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"is not a quantity; write a number and one of B, kB, KB, MB, GB"
    ) as caught:
        parse_quantity(text, BYTES)
    assert repr(text) in str(caught.value)


def test_fields_are_in_base_units() -> None:
    sheet = Sheet.parse({"time": "10 us", "memory": "80 GB", "bandwidth": "2 TB/s", "speed": "1 PFLOP/s"})
    fields = (sheet.time, sheet.memory, sheet.bandwidth, sheet.speed)
    assert fields == pytest.approx((1e-5, 80e9, 2e12, 1e15), rel=1e-12)


def test_a_bare_number_is_in_the_base_unit() -> None:
    assert Sheet.parse({"time": 2, "memory": 4096}) == Sheet(time=2.0, memory=4096.0)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("time", "-1 ms", "must be greater than or equal to 0, not '-1 ms'"),
        ("time", "1e20 d", "must be less than or equal to 10000000000, not '1e20 d'"),
        ("time", float("inf"), "must be a finite number, not inf"),
        ("memory", 0, "must be greater than 0, not 0"),
        ("memory", "1e999 GB", "must be a finite number, not inf"),
        ("memory", True, "must be a number with a unit, not true or false"),
        ("bandwidth", 1e-300, "must be greater than or equal to 1, not 1e-300"),
        ("speed", "-5 TFLOP/s", "must be greater than or equal to 1, not '-5 TFLOP/s'"),
    ],
)
def test_a_quantity_out_of_its_range_is_refused(field: str, value: object, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        Sheet.parse({field: value})
    assert str(caught.value) == f"{field}: {says}"
