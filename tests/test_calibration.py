"""A calibration in a deployment: its factors are relative to the profile that they were fitted on."""

from __future__ import annotations

from pathlib import Path

import pytest

from triptych import simulate
from triptych.plan import plan_pools, profile_names
from triptych.report.prediction import prediction_lines
from triptych.spec.base import SpecError
from triptych.spec.calibration import Calibration
from triptych.spec.deployment import Deployment
from triptych.spec.workload import WorkloadSpec

POOL = {
    "phases": ["prefill", "decode"],
    "device": "CPU-XEON-4",
    "precision": {"weights": "fp32", "kv": "fp32", "compute": "fp32"},
    "kv_blocks": 500,
    "scheduler": {"policy": "sarathi", "max_batch": 8, "max_tokens": 256},
}
WORKLOAD = WorkloadSpec.parse(
    {
        "requests": 3,
        "arrivals": {"kind": "constant", "rate": 1},
        "prompt": {"kind": "fixed", "tokens": 20},
        "output": {"kind": "fixed", "tokens": 3},
    }
)
PROFILE = "cpu-opt-125m-fp32"


def deployment(folder: Path, profile: str | None, fitted_on: tuple[str, ...] | None) -> Deployment:
    file = folder / "calibration.yaml"
    file.write_text(Calibration(iteration=0.001, profiles=fitted_on).to_yaml(), encoding="utf-8")
    pool = POOL if profile is None else {**POOL, "profile": profile}
    return Deployment.parse({"model": "OPT-125M", "pools": {"all": pool}, "calibration": str(file)})


@pytest.mark.parametrize(
    ("profile", "fitted_on", "problem"),
    [
        (None, (PROFILE,), f"relative to {PROFILE}, and the pools rest on data sheets"),
        (PROFILE, (), f"relative to data sheets, and the pools rest on {PROFILE}"),
        (PROFILE, ("another",), f"relative to another, and the pools rest on {PROFILE}"),
    ],
)
def test_beside_another_profile_it_is_refused(
    profile: str | None, fitted_on: tuple[str, ...], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=problem) as caught:
        simulate(deployment(tmp_path, profile, fitted_on), WORKLOAD)
    assert caught.value.field == "calibration"


@pytest.mark.parametrize(
    ("profile", "fitted_on"), [(None, ()), (PROFILE, (PROFILE,)), (PROFILE, None), (None, None)]
)
def test_beside_its_own_it_counts_and_is_mentioned(
    profile: str | None, fitted_on: tuple[str, ...] | None, tmp_path: Path
) -> None:
    run = simulate(deployment(tmp_path, profile, fitted_on), WORKLOAD)
    assert "calibrated to a measured run" in prediction_lines(run.meta)[0]


def test_a_profile_is_known_by_its_name_wherever_its_file_lies(tmp_path: Path) -> None:
    (library,) = plan_pools(deployment(tmp_path, PROFILE, None))
    path = tmp_path / f"{PROFILE}.parquet"
    path.symlink_to(Path("src/triptych/catalog/data/profiles", path.name).absolute())
    (file,) = plan_pools(deployment(tmp_path, str(path), None))
    assert profile_names([library]) == profile_names([file]) == (PROFILE,)
