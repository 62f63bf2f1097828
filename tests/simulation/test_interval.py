"""A prediction says what it rests on and how sure it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import triptych
from triptych.report.prediction import prediction_lines
from triptych.spec.slo import METRICS, STATISTICS

EXAMPLES = Path(__file__).parents[2] / "examples"
DEPLOYMENT = EXAMPLES / "deployments" / "llama-a100.yaml"
WORKLOAD = EXAMPLES / "workloads" / "chat.yaml"
FEW = ("workload.requests=200",)


def test_the_interval_holds_the_prediction() -> None:
    run = triptych.simulate(DEPLOYMENT, WORKLOAD, overrides=FEW, interval=True)
    interval = run.meta["interval"]
    for metric in ("ttft", "tpot", "e2e"):
        low, high = interval[metric]["mean"]
        assert low < run.column(metric).mean() < high
    low, high = interval["output_tokens"]["rate"]
    assert 0 < low < high


def test_every_statistic_that_a_bound_may_name_has_an_interval() -> None:
    interval = triptych.simulate(DEPLOYMENT, WORKLOAD, overrides=FEW, interval=True).meta["interval"]
    for metric in METRICS:
        assert set(interval[metric]) == set(STATISTICS)
        assert all(0 < low < high for low, high in interval[metric].values()), metric


def test_a_bound_within_its_interval_is_uncertain() -> None:
    """The prediction is within all three bounds, its interval within two."""
    bounds = "workload.slo={ttft: {p50: 3 s}, tpot: {p95: 30 ms, p99: 100 ms}}"
    overrides = ("workload.requests=500", "workload.arrivals.rate=4", bounds)
    run = triptych.simulate(DEPLOYMENT, WORKLOAD, overrides=overrides, interval=True)
    results = triptych.summarise(run).slo
    for result in results:
        assert result.interval is not None and result.value is not None and result.value <= result.bound
        low, high = result.interval
        assert low is not None and high is not None and low < result.value < high
    assert [result.verdict for result in results] == ["met", "uncertain", "met"]
    assert run.meta["interval"]["slo"]["tpot.p95"] == list(results[1].interval or ())
    assert triptych.summarise(replace(run, meta={})).slo[1].verdict == "met", "without an interval"


def test_what_grows_has_no_limit_above() -> None:
    bounds = "workload.slo={ttft: {p50: 100 s}, e2e: {p50: 1000 s}}"
    overrides = ("workload.requests=600", "workload.arrivals.rate=30", bounds)
    run = triptych.simulate(DEPLOYMENT, WORKLOAD, overrides=overrides, interval=True)
    for result in triptych.summarise(run).slo:
        assert result.grows
        assert (result.interval, result.verdict) == ((None, None), "missed"), result.metric
    json.dumps(run.meta, allow_nan=False)


def test_a_roofline_is_as_unsure_as_rooflines_are() -> None:
    """Decoding is bound by weights, at 12 %, and by KV, at 4 %; norms and activations are the least sure."""
    run = triptych.simulate(DEPLOYMENT, WORKLOAD, overrides=FEW, interval=True)
    (deviation,) = run.meta["interval"]["deviation"].values()
    assert 0.04 < deviation < 0.3
    assert run.meta["predicted_from"] == {"measured": 0.0, "interpolated": 0.0, "roofline": 1.0}


def test_without_it_nothing_is_run_again() -> None:
    run = triptych.simulate(DEPLOYMENT, WORKLOAD, overrides=FEW)
    assert "interval" not in run.meta
    assert prediction_lines(run.meta) == [
        "predicted from the roofline alone: a profile of the device makes it more certain"
    ]


def test_the_interval_in_words() -> None:
    meta = {
        "predicted_from": {"measured": 0.25, "interpolated": 0.7, "roofline": 0.05},
        "interval": {
            "level": 0.9,
            "tpot": {"mean": [0.01, 0.012]},
            "output_tokens": {"rate": [900.0, 1100.0]},
        },
    }
    assert prediction_lines(meta) == [
        "predicted time rests on: 25% measured, 70% interpolated, 5.0% roofline",
        "90% interval  TPOT mean 10.0 ms to 12.0 ms, 900 to 1,100 output tokens/s",
    ]


def test_what_grows_has_no_interval_in_words() -> None:
    interval = {"level": 0.9, "ttft": {"mean": [1.0, 2.0]}, "tpot": {"mean": [0.01, 0.012]}}
    lines = prediction_lines({"interval": interval}, growing=("ttft", "e2e"))
    assert lines == ["90% interval  TTFT mean grows, TPOT mean 10.0 ms to 12.0 ms"]


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_scaled_costs_scale_every_batch(factor: float) -> None:
    from triptych.plan import plan_pools
    from triptych.policy.batch import Batch
    from triptych.spec.deployment import Deployment

    (plan,) = plan_pools(Deployment.load(DEPLOYMENT))
    for batch in (Batch((), 8, 8000), Batch((), 1, 10)):
        assert plan.cost.scaled(factor).run(batch)[0] == pytest.approx(factor * plan.cost.run(batch)[0])
