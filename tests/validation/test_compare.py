"""Predicted beside measured: which requests count, what the error is, and how sure the measured figure is."""

from __future__ import annotations

import doctest
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.record.build import NEVER, run

from triptych.report import compare as module
from triptych.report.compare import Outcome, compare, relative_error, request_errors, rows

TIMES = st.lists(st.floats(1e-4, 1e3), min_size=1, max_size=20)


def outcome(ttft: list[float], *, rate: float = 1.0, **more: list[float]) -> Outcome:
    latency = {name: np.array(values) for name, values in {"ttft": ttft, **more}.items()}
    return Outcome(latency, {"requests": rate})


def row(comparisons: Any, metric: str, statistic: str) -> module.Row:
    return next(one for one in rows(comparisons) if (one.metric, one.statistic) == (metric, statistic))


def request(arrival: float, first_token: float, end: float, tokens: int, **more: Any) -> dict[str, Any]:
    times = {"arrival": arrival, "first_token": first_token, "end": end}
    return {**times, "generated_tokens": tokens, "output_tokens": tokens, **more}


class TestRuns:
    measured = run([request(0, 1, 3, 5), request(1, 2, 5, 4)], horizon=5.0)
    predicted = run([request(0, 1.1, 2.9, 5), request(1, 2, 6, 4)], horizon=6.0)

    def test_latencies_are_those_of_the_records(self) -> None:
        comparison = compare(self.predicted, self.measured)
        assert comparison.statistic("ttft", "mean") == pytest.approx((1.05, 1.0))
        assert comparison.statistic("tpot", "mean") == pytest.approx(((0.45 + 4 / 3) / 2, (0.5 + 1) / 2))
        assert comparison.statistic("e2e", "p50") == pytest.approx((3.95, 3.5))

    def test_rates_are_those_of_the_whole_runs(self) -> None:
        comparison = compare(self.predicted, self.measured)
        assert comparison.statistic("output_tokens", "rate") == pytest.approx((9 / 6, 9 / 5))
        assert comparison.statistic("requests", "rate") == pytest.approx((2 / 6, 2 / 5))

    def test_a_request_that_failed_on_one_side_counts_on_neither(self) -> None:
        lost = {"status": "timed_out", "first_token": NEVER, "end": 9.0}
        measured = run([request(0, 1, 3, 5), {**request(1, 2, 5, 4), **lost}])
        comparison = compare(self.predicted, measured)
        assert comparison.statistic("ttft", "mean") == pytest.approx((1.1, 1.0))
        assert comparison.one_sided() == (1, 0)
        assert compare(measured, self.predicted).one_sided() == (0, 1)

    def test_a_run_is_itself(self) -> None:
        for one in rows([compare(self.measured, self.measured)]):
            assert one.error == 0

    def test_other_requests_are_refused(self) -> None:
        with pytest.raises(ValueError, match="2 requests are predicted and 1 measured"):
            compare(self.predicted, run([request(0, 1, 3, 5)]))


class TestErrors:
    def test_a_prediction_that_is_too_slow_has_a_positive_error(self) -> None:
        assert relative_error(1.2, 1.0) == pytest.approx(0.2)
        assert relative_error(0.8, 1.0) == pytest.approx(-0.2)

    @pytest.mark.parametrize(("predicted", "measured"), [(None, 1.0), (1.0, None), (1.0, 0.0)])
    def test_without_two_figures_there_is_none(self, predicted: float | None, measured: float | None) -> None:
        assert relative_error(predicted, measured) is None

    @given(TIMES, st.floats(0.1, 10))
    def test_times_that_are_all_off_by_a_factor_err_by_it_in_every_statistic(
        self, times: list[float], factor: float
    ) -> None:
        predicted = outcome([time * factor for time in times], rate=factor)
        comparisons = [compare(predicted, outcome(times))]
        errors = [one.error for one in rows(comparisons) if one.metric in ("ttft", "requests")]
        assert errors == pytest.approx([factor - 1] * 5, abs=1e-9)
        assert request_errors(comparisons, "ttft") == pytest.approx([factor - 1] * len(times), abs=1e-9)

    def test_what_is_not_known_of_one_side_is_not_compared(self) -> None:
        comparison = compare(outcome([1.0], e2e=[2.0]), outcome([1.0]))
        assert row([comparison], "e2e", "mean") == module.Row("e2e", "mean", None, None, None)
        assert row([comparison], "output_tokens", "rate").error is None
        assert comparison.one_sided() == (0, 0)
        assert len(request_errors([comparison], "e2e")) == 0

    def test_metrics_of_other_requests_do_not_fit(self) -> None:
        with pytest.raises(ValueError, match="differ in length"):
            outcome([1.0], e2e=[2.0, 3.0])


class TestRepetitions:
    def test_figures_are_means_over_them(self) -> None:
        comparisons = [compare(outcome([3.0]), outcome([value])) for value in (1.0, 2.0, 3.0)]
        found = row(comparisons, "ttft", "p90")
        assert (found.predicted, found.measured, found.error) == (3.0, 2.0, 0.5)

    def test_the_interval_is_that_of_students_t(self) -> None:
        """1, 2, 3: deviation 1; t of 2 degrees of freedom at 97.5 % is 4.3027 in any table."""
        comparisons = [compare(outcome([3.0]), outcome([value])) for value in (1.0, 2.0, 3.0)]
        assert row(comparisons, "ttft", "mean").interval == pytest.approx(4.3027 / np.sqrt(3), rel=1e-4)

    def test_a_single_one_has_no_interval(self) -> None:
        assert row([compare(outcome([3.0]), outcome([1.0]))], "ttft", "mean").interval is None

    def test_one_without_the_metric_is_left_out(self) -> None:
        comparisons = [compare(outcome([3.0]), outcome([value])) for value in (1.0, NEVER)]
        found = row(comparisons, "ttft", "mean")
        assert (found.predicted, found.measured, found.interval) == (3.0, 1.0, None)


def test_the_example_is_true() -> None:
    failed, examples = doctest.testmod(module)
    assert (failed, examples) == (0, 4)
