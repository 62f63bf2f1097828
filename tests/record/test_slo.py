"""A run held to its SLO: failed requests, answers of one token, gaps between tokens, waits that grow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.record import build

import triptych
from triptych.record import Run
from triptych.record.metrics import summarise
from triptych.record.slo import within_slo
from triptych.record.statistics import percentile_with_infinities
from triptych.record.summary import SloResult
from triptych.spec.deployment import Deployment
from triptych.spec.workload import WorkloadSpec

TIMED_OUT = {"arrival": 0.0, "end": 9.0, "status": "timed_out", "output_tokens": 3}


def rows_with_ttft(*ttfts: float, **more: Any) -> list[dict[str, Any]]:
    """Requests of one token."""
    return [{"arrival": 0.0, "first_token": t, "end": t, "generated_tokens": 1, **more} for t in ttfts]


def held_to(run: Run, *bounds: tuple[str, str, float]) -> list[SloResult]:
    return list(summarise(replace(run, slo=bounds)).slo)


def decoded(rows: list[dict[str, Any]], gaps: list[list[float]]) -> Run:
    """Finished requests that come at 0, get their first token at 1 and further ones after these gaps."""
    times = [np.cumsum([1.0, *each]) for each in gaps]
    finished = [
        {
            "arrival": 0.0,
            "first_token": 1.0,
            "end": float(time[-1]),
            "generated_tokens": len(time),
            "output_tokens": len(time),
        }
        for time in times
    ]
    # An empty stay at each later token, as a client sees them.
    spans = [(i, 0, 0, 0, float(t)) for i, time in enumerate(times) for t in time[1:]]
    return build.run([*finished, *rows], [], spans, instances=[])


def test_a_bound_is_met_if_the_statistic_is_within_it() -> None:
    median, mean = held_to(build.run(rows_with_ttft(1, 2, 6)), ("ttft", "p50", 2.0), ("ttft", "mean", 2.9))
    assert (median.value, median.verdict) == (2.0, "met")
    assert median.share == pytest.approx(2 / 3)
    assert (mean.value, mean.verdict) == (3.0, "missed")


def test_a_request_that_failed_is_worse_than_any_bound() -> None:
    bounds = ("ttft", "p50", 2.0), ("ttft", "p99", 5.0), ("ttft", "mean", 2.0), ("e2e", "p99", 99.0)
    run = build.run([*rows_with_ttft(1, 2, 3, 2), TIMED_OUT])
    p50, p99, mean, e2e = held_to(run, *bounds)
    assert (p50.value, p50.verdict, p50.share) == (2.0, "met", 0.6)
    assert (p99.value, p99.verdict) == (None, "missed")
    assert (mean.value, mean.verdict) == (None, "missed")
    assert e2e.verdict == "missed"


@pytest.mark.parametrize("status", ["timed_out", "rejected"])
def test_a_first_token_in_time_does_not_help_a_request_that_failed(status: str) -> None:
    broken_off = {**TIMED_OUT, "first_token": 0.5, "generated_tokens": 2, "status": status}
    run = build.run([*rows_with_ttft(1, 1), broken_off])
    ttft, tpot = held_to(run, ("ttft", "p99", 2.0), ("tpot", "p50", 2.0))
    assert (ttft.verdict, ttft.share) == ("missed", pytest.approx(2 / 3))
    assert (tpot.verdict, tpot.share) == ("missed", 0.0)


def test_a_client_that_went_away_is_no_failure() -> None:
    away = [{**TIMED_OUT, "status": "aborted"}, {**TIMED_OUT, "status": "aborted", "first_token": 0.5}]
    run = build.run([*rows_with_ttft(1, 1), *away], slo=[("ttft", "p99", 2.0)])
    (ttft,) = summarise(run).slo
    assert (ttft.verdict, ttft.share) == ("met", 1.0)
    assert summarise(run).throughput.goodput_share == 1.0


def test_nearly_all_time_out_and_nothing_is_met() -> None:
    """Llama-3.1-70B at more than it can serve, with clients of little patience."""
    pool = {
        "phases": ["prefill", "decode"],
        "device": "H100",
        "parallel": {"tensor": 4},
        "scheduler": {"policy": "unified"},
    }
    workload = {
        "requests": 300,
        "arrivals": {"kind": "poisson", "rate": 60},
        "prompt": {"kind": "fixed", "tokens": 1000},
        "output": {"kind": "fixed", "tokens": 300},
        "timeout": "3 s",
        "slo": {"ttft": {"p50": "10 s"}, "tpot": {"p95": "1 s", "mean": "1 s"}, "itl": {"p99": "1 s"}},
    }
    deployment = Deployment.parse({"model": "Llama-3.1-70B", "pools": {"all": pool}})
    summary = summarise(triptych.simulate(deployment, WorkloadSpec.parse(workload)))
    assert summary.counts.timed_out > 0.8 * summary.counts.requests
    assert {result.verdict for result in summary.slo} == {"missed"}
    assert all(result.share is not None and result.share < 0.2 for result in summary.slo)


def test_answers_of_one_token_have_no_tpot_to_be_held_to() -> None:
    bounds = [("tpot", "p99", 0.1), ("itl", "p99", 0.1)]
    summary = summarise(build.run(rows_with_ttft(1, 2, output_tokens=1), slo=bounds))
    assert [(result.verdict, result.value, result.share) for result in summary.slo] == [
        ("no request", None, None)
    ] * 2
    assert summary.throughput.goodput_share == 1.0


def test_a_failed_answer_of_one_token_has_no_tpot_either() -> None:
    failed = {**TIMED_OUT, "output_tokens": 1}
    tpot, ttft = held_to(build.run([*rows_with_ttft(1), failed]), ("tpot", "p99", 9.0), ("ttft", "p99", 9.0))
    assert (tpot.verdict, ttft.verdict) == ("no request", "missed")


def test_a_bound_on_itl_is_over_all_gaps() -> None:
    run = decoded([], [[1, 1, 1, 1], [1, 1, 1, 9]])
    p50, p99, mean = held_to(run, ("itl", "p50", 1.0), ("itl", "p99", 8.0), ("itl", "mean", 2.0))
    assert (p50.value, p50.verdict, p50.share) == (1.0, "met", 7 / 8)
    assert (p99.value, p99.verdict) == (pytest.approx(1 + 0.93 * 8), "missed")
    assert (mean.value, mean.verdict) == (2.0, "met")
    assert summarise(run).latency["itl"].p99 == pytest.approx(p99.value)


def test_all_gaps_of_a_failed_request_are_worse_than_a_bound() -> None:
    run = decoded([TIMED_OUT], [[1, 1, 1, 1], [1, 1, 1, 9]])
    p50, p99 = held_to(run, ("itl", "p50", 1.0), ("itl", "p90", 8.0))
    assert (p50.value, p50.share) == (1.0, 7 / 10)
    assert (p99.value, p99.verdict) == (None, "missed")


def test_a_bound_on_itl_asks_a_request_for_that_statistic_of_its_own_gaps() -> None:
    run = decoded([], [[1, 1, 1, 1], [1, 1, 1, 9]])
    for statistic, second in (("p50", True), ("p95", False), ("mean", False), ("p99.9", False)):
        assert within_slo(replace(run, slo=[("itl", statistic, 2.0)])).tolist() == [True, second], statistic


def test_a_metric_that_was_not_seen_is_neither_met_nor_missed() -> None:
    silent = {"arrival": 0.0, "first_token": 1.0, "end": 2.0, "generated_tokens": 4, "output_tokens": 4}
    run = decoded([silent], [[1, 1, 1, 1]])
    met, open_ = held_to(run, ("itl", "p50", 1.5), ("itl", "p99", 1.5))
    assert met.verdict == "met", "whatever the other three gaps were"
    assert (open_.verdict, open_.value) == ("uncertain", None)
    (missed,) = held_to(run, ("itl", "p90", 0.5))
    assert missed.verdict == "missed"


def test_percentiles_with_infinities() -> None:
    values, once = np.array([3.0, 1.0, 2.0]), np.array([1, 1, 1])
    assert percentile_with_infinities(values, once, 0, 50) == 2.0
    assert percentile_with_infinities(values, once, 0, 75) == 2.5
    assert percentile_with_infinities(values, once, 2, 50) == 3.0
    assert percentile_with_infinities(values, once, 2, 51) == float("inf")
    assert percentile_with_infinities(values, np.array([1, 4, 1]), 0, 70) == 1.5
    assert np.isnan(percentile_with_infinities(values[:0], once[:0], 0, 50))


def test_goodput_asks_each_request_for_the_widest_bound_of_a_metric() -> None:
    rows = [*rows_with_ttft(1, 4, 9), *rows_with_ttft(1, status="aborted")]
    run = build.run(rows, slo=[("ttft", "p50", 2.0), ("ttft", "p99", 5.0), ("tpot", "mean", 0.1)])
    assert within_slo(run).tolist() == [True, True, False, False]
    assert summarise(run).throughput.goodput == 0.2


@pytest.mark.parametrize("requests", [50, 200])
def test_a_wait_for_decode_memory_that_grows_is_part_of_tpot(requests: int) -> None:
    """Decode has memory for one request at a time: TPOT is as long as the trace lets it become."""
    scheduler = {"policy": "vllm"}
    pools = {
        "prefill": {"phases": ["prefill"], "device": "H100", "scheduler": scheduler},
        "decode": {"phases": ["decode"], "device": "H100", "scheduler": scheduler, "kv_blocks": 76},
    }
    workload = {
        "requests": requests,
        "arrivals": {"kind": "poisson", "rate": 2},
        "prompt": {"kind": "fixed", "tokens": 1000},
        "output": {"kind": "fixed", "tokens": 200},
        "slo": {"tpot": {"p99": "1 s"}, "itl": {"p99": "1 s"}, "ttft": {"p99": "1 s"}},
    }
    deployment = Deployment.parse({"model": "Llama-3-8B", "pools": pools})
    summary = summarise(triptych.simulate(deployment, WorkloadSpec.parse(workload)))
    assert summary.overload is not None
    assert {"tpot", "itl", "e2e", "decode_queue"} <= set(summary.overload.metrics)
    ttft, tpot, itl = summary.slo
    assert tpot.value is not None and tpot.value < 1.0, "within the bound as yet"
    assert (tpot.grows, tpot.verdict, itl.verdict) == (True, "missed", "missed")
    assert (ttft.grows, ttft.verdict) == (False, "met")
