"""The marks in the table of a validation."""

from __future__ import annotations

import pytest

from triptych.report.compare import Row
from triptych.validation.table import is_large


@pytest.mark.parametrize(
    ("predicted", "interval", "marked"),
    [
        (1.08, 0.01, False),
        (1.10, 0.01, True),
        (0.90, 0.01, True),
        (0.90, 0.20, False),
        (1.25, 0.20, True),
        (1.10, None, True),
        (None, None, False),
    ],
    ids=["small", "large", "short", "within the interval", "beyond it", "measured once", "not compared"],
)
def test_an_error_is_marked_that_is_large_and_no_matter_of_chance(
    predicted: float | None, interval: float | None, marked: bool
) -> None:
    measured = None if predicted is None else 1.0
    assert is_large(Row("ttft", "mean", predicted, measured, interval)) is marked
