"""A simulation of the CPU at hand rests on what was measured on this machine, and says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from triptych import catalog, simulate
from triptych.profiles import Profile, ProfileInfo, library, machine, profile_of, write_profile
from triptych.profiles.shapes import shape_of
from triptych.record import Run
from triptych.report.prediction import prediction_lines
from triptych.spec.deployment import Deployment
from triptych.spec.workload import WorkloadSpec

MODEL = "OPT-125M"
HERE = {"processor": "Made-Up 9000", "cores": "4", "threads": "4"}
WORKLOAD = WorkloadSpec.parse(
    {
        "requests": 5,
        "arrivals": {"kind": "constant", "rate": 0.1},
        "prompt": {"kind": "fixed", "tokens": 100},
        "output": {"kind": "fixed", "tokens": 4},
    }
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine, and its user's own folder of profiles."""
    monkeypatch.setattr(machine, "processor", lambda: "Made-Up 9000")
    monkeypatch.setattr(machine, "cores", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv(library.FOLDER, str(tmp_path))
    return tmp_path


def measured(waited: str = "0.00", clocks: dict[str, str] = HERE, front: float | None = None) -> Profile:
    """A profile whose passes take a tenth of a second a layer."""
    info = ProfileInfo(
        name="",
        device="CPU",
        source="a test",
        clocks={**clocks, "waited": waited},
        versions=machine.libraries(),
        shapes={"opt-125m": shape_of(catalog.model(MODEL))},
    )
    operators: list[tuple[str, int, float]] = [("mlp up", 1, 0.1), ("mlp up", 256, 0.1)]
    operators += [] if front is None else [("front end", 0, front)]
    names, units, seconds = zip(*operators, strict=True)
    columns = {"operator": list(names), "units": list(units), "seconds": list(seconds), "model": "opt-125m"}
    return profile_of(info, columns)


def predicted(device: str = "CPU", **more: Any) -> Run:
    pool = {"phases": ["prefill", "decode"], "device": device, "scheduler": {"policy": "sarathi"}, **more}
    return simulate(Deployment.parse({"model": MODEL, "pools": {"all": pool}}), WORKLOAD)


def ttft(run: Run) -> float:
    return float(np.mean(run.requests["first_token"] - run.requests["arrival"]))


def test_a_profile_of_this_machine_is_taken_and_named(here: Path) -> None:
    alone = predicted()
    write_profile(measured(), here / "mine.parquet")
    run = predicted()
    assert ttft(run) > ttft(alone) + 1
    assert "profile: mine" in run.deployment_yaml or "- mine" in run.deployment_yaml
    assert prediction_lines(run.meta)[0].endswith("; profile mine, measured on this machine")


def test_one_that_was_measured_on_a_quiet_machine_comes_first(here: Path) -> None:
    write_profile(measured(waited="0.40"), here / "a.parquet")
    assert predicted().meta["profiles_at_hand"] == ["a"]
    write_profile(measured(), here / "b.parquet")
    assert predicted().meta["profiles_at_hand"] == ["b"]


def test_without_one_it_says_how_to_measure_it(here: Path) -> None:
    write_profile(measured(clocks={**HERE, "processor": "Made-Up 9001"}), here / "other.parquet")
    lines = prediction_lines(predicted().meta)
    assert lines[0] == "predicted from the roofline alone"
    command = f"triptych profile --model OPT-125M --device cpu --precision bf16 --quick --out {here}"
    assert lines[1] == f"this machine has no profile that fits; to measure one: {command}"


def test_other_devices_and_named_profiles_are_as_they_were(here: Path) -> None:
    alone = ttft(predicted("CPU-XEON-4"))
    write_profile(measured(), here / "mine.parquet")
    run = predicted("CPU-XEON-4")
    assert ttft(run) == alone
    assert run.meta["profiles_at_hand"] == run.meta["to_measure"] == []
    assert predicted(profile="mine").meta["profiles_at_hand"] == []


def test_its_front_end_delays_every_request(here: Path) -> None:
    write_profile(measured(), here / "mine.parquet")
    without = ttft(predicted())
    write_profile(measured(front=0.25), here / "mine.parquet")
    assert ttft(predicted()) == pytest.approx(without + 0.25)
