"""The runs of vLLM that others measured are predicted within the bounds that the project promises."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from triptych import Deployment, WorkloadSpec, simulate

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data" / "vllm_rtx"


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    yield


@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data/vllm_rtx")
def test_measured_runs_of_vllm_are_predicted() -> None:
    from cases.vllm_folder import vllm_cases

    measured = [case for case in vllm_cases(DATA) if case.measured]
    assert len(measured) >= 2
    for case in measured:
        run = simulate(case.deployment, case.requests)
        for metric, bound in (("ttft", 0.08), ("tpot", 0.03), ("e2e", 0.03)):
            predicted, real = run.column(metric), case.measured[metric]
            assert abs(predicted.mean() / real.mean() - 1) < bound, (case.name, metric)
            p90 = np.percentile(predicted, 90) / np.percentile(real, 90) - 1
            assert abs(p90) < 0.10, (case.name, metric)
        assert run.meta["predicted_from"]["roofline"] < 0.05


@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data/vllm_rtx")
def test_what_was_not_measured_is_predicted_all_the_same() -> None:
    from cases.vllm_folder import vllm_cases

    for case in vllm_cases(DATA):
        if not case.measured:
            run = simulate(case.deployment, case.requests)
            assert run.finished.all(), case.name


def test_a_preempted_request_waits_as_engines_count() -> None:
    """At any batch those run that it decodes or prefills, whoever has begun before."""
    from fidelity import occupancy

    pool = {
        "phases": ["prefill", "decode"],
        "device": "A10",
        "scheduler": {"policy": "unified"},
        "kv_blocks": 40,
    }
    workload = {
        "requests": 40,
        "arrivals": {"kind": "poisson", "rate": 4},
        "prompt": {"kind": "fixed", "tokens": 100},
        "output": {"kind": "fixed", "tokens": 150},
    }
    deployment = Deployment.parse({"model": "opt-1.3b", "pools": {"all": pool}})
    run = simulate(deployment, WorkloadSpec.parse(workload))
    assert run.requests["preemptions"].sum() > 5
    (lane,) = run.lanes
    log = lane.columns
    running, waiting = occupancy(run, log["start"])
    np.testing.assert_array_equal(running, log["decodes"] + log["prefilling"])
    np.testing.assert_array_equal(waiting, log["waiting"])
