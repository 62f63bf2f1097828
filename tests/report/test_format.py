"""Quantities as people read them."""

from __future__ import annotations

import pytest

from triptych.report import format as human


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0 s"),
        (2.5e-4, "250 us"),
        (9.999e-4, "1.00 ms"),
        (0.0786, "78.6 ms"),
        (0.9999, "1.00 s"),
        (3.834, "3.83 s"),
        (99.97, "100 s"),
        (750, "12.5 min"),
        (7200, "2.00 h"),
    ],
)
def test_seconds(value: float | None, text: str) -> None:
    assert human.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "J", "-"),
        (0, "J", "0 J"),
        (0.5, "J", "0.500 J"),
        (1200, "J", "1.20 kJ"),
        (999_700, "J", "1.00 MJ"),
        (80e9, "B", "80.0 GB"),
        (3.35e12, "B/s", "3.35 TB/s"),
        (8.03e9, "", "8.03 G"),
        (12, "", "12.0"),
    ],
)
def test_scaled(value: float | None, unit: str, text: str) -> None:
    assert human.scaled(value, unit) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0, "0"), (0.01234, "0.0123"), (6.4, "6.40"), (99.96, "100"), (12345.6, "12,346")],
)
def test_number(value: float | None, text: str) -> None:
    assert human.number(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "-"),
        (0, "0%"),
        (0.0031, "0.31%"),
        (0.0968, "9.7%"),
        (0.62, "62%"),
        (0.9949, "99.4%"),
        (0.99996, "99.99%"),
        (1, "100%"),
    ],
)
def test_percent_never_makes_all_of_nearly_all(share: float | None, text: str) -> None:
    assert human.percent(share) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.00421, "$0.0042"), (2.534, "$2.53"), (10.8, "$10.80"), (1234, "$1,234")],
)
def test_dollars(value: float | None, text: str) -> None:
    assert human.dollars(value) == text


def test_counts() -> None:
    assert human.count(1, "image") == "1 image"
    assert human.count(2000, "request") == "2,000 requests"
