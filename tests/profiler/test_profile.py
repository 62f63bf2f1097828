"""The whole of it on a tiny model: a profile that can be read, and what goes wrong."""

from __future__ import annotations

import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.engine.tiny import config_file

from triptych.profiler import Outcome, api, run_profile
from triptych.profiler.assemble import Check
from triptych.profiles import ProfileInfo, profile_of, read_profile
from triptych.spec.base import SpecError

SMALL: dict[str, Any] = {
    "precision": "fp32",
    "quick": True,
    "max_tokens": 64,
    "max_batch": 4,
    "max_context": 64,
    "max_patches": 256,
    "repeats": 2,
}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_a_profile_is_measured_and_an_interruption_loses_nothing(tmp_path: Path) -> None:
    model = str(config_file("qwen2_5_vl", tmp_path))
    told: list[dict[str, Any]] = []

    def interrupt(line: dict[str, Any]) -> None:
        told.append(line)
        if len([each for each in told if each["kind"] == "turn"]) == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_profile(model, tp=(1, 2), out=tmp_path / "out", progress=interrupt, **SMALL)
    taken = {line["name"] for line in told if line["kind"] == "turn"}

    again: list[dict[str, Any]] = []
    outcome = run_profile(model, tp=(1, 2), out=tmp_path / "out", progress=again.append, **SMALL)
    first, second = (line for line in again if line["kind"] == "model")
    assert (first["tensor"], second["tensor"]) == (1, 2)
    assert first["left"] == len(first["cases"]) - len(taken) > 0
    assert second["left"] == len(second["cases"])
    assert outcome.finished
    assert not list((tmp_path / "out").glob(".*"))
    assert {(check.what, check.tensor) for check in outcome.checks} == {
        (what, tensor) for what in ("forward", "vision forward") for tensor in (1, 2)
    }

    profile = read_profile(outcome.path)
    assert profile.info.device == "CPU"
    assert profile.info.versions["torch"] and profile.info.clocks["threads"] == "1"
    own = profile.of(model="qwen2_5_vl", tensor=2)
    wanted = {"norm", "prefill attention", "decode attention", "head", "iteration", "sampler", "forward"}
    wanted |= {"vision tower", "vision window attention", "vision forward", "scheduling", "input building"}
    assert wanted <= set(own.columns["operator"])
    assert set(own.columns["precision"]) == {"fp32"}
    assert (own.columns["seconds"] > 0).all()
    assert len(profile.of(model="qwen2_5_vl", operator="detokenising"))
    assert profile.info.shapes["qwen2_5_vl"]["hidden"] == 64
    kernels, collectives = profile.of(model=""), ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")
    assert {"copy", "message", *collectives} == set(kernels.columns["operator"])
    for name in collectives:
        assert set(kernels.of(operator=name).columns["members"]) == {2}


def test_it_stops_when_its_time_is_up_and_says_so(tmp_path: Path) -> None:
    model = str(config_file("llama", tmp_path))
    outcome = run_profile(model, out=tmp_path, minutes=0.0, **SMALL)
    assert not outcome.finished
    assert "not all was measured" in outcome.profile.info.notes


def test_without_a_cuda_device_none_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told at once where there is no sign of one, and by torch where there is."""
    model = str(config_file("llama", tmp_path))
    monkeypatch.setattr(api, "cuda_may_be_here", lambda: False)
    with pytest.raises(SpecError, match=r"--device: there is no sign of a CUDA device"):
        run_profile(model, device="cuda", out=tmp_path, **SMALL)
    if torch.cuda.is_available():
        return
    monkeypatch.setattr(api, "cuda_may_be_here", lambda: True)
    with pytest.raises(SpecError, match=r"^--device: torch finds no CUDA device here; use cpu$"):
        run_profile(model, device="cuda", out=tmp_path, **SMALL)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"device": "tpu"}, "--device"),
        ({"precision": "int4"}, "--precision"),
        ({"tp": (3,)}, "--tp: llama has 4 attention heads, which 3 does not divide"),
        ({"tp": ()}, "--tp"),
    ],
)
def test_what_cannot_be_measured_is_one_line(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    arguments = {**SMALL, **wrong}
    with pytest.raises(SpecError, match=message) as caught:
        run_profile(str(config_file("llama", tmp_path)), out=tmp_path, **arguments)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.parquet"))


def test_the_outcome_is_printed_as_it_reads_best(tmp_path: Path) -> None:
    from rich.console import Console

    from triptych.profiler.console import print_outcome

    found = outcome(tmp_path / "a-very-long-name-of-a-folder-[bold]-in-which-profiles-are-kept/cpu-m.parquet")
    console = Console(width=80, file=StringIO())
    print_outcome(found, console)
    file = console.file
    assert isinstance(file, StringIO)
    lines = file.getvalue().splitlines()
    assert "language model        1        9             1.2%        -0.4%      3.1%" in lines
    assert "1 rows, 0% of them unsteady." in lines
    assert lines[-1] == f"written to {found.path}"
    assert not any(line.endswith(" ") for line in lines)


def outcome(path: Path) -> Outcome:
    info = ProfileInfo(name="cpu-m", device="CPU", source="a test", notes="Products in [float32].")
    measured = profile_of(info, {"operator": ["qkv"], "units": 1, "seconds": 1e-3})
    return Outcome(path, measured, [Check("forward", 1, 9, 0.012, -0.004, 0.031)], finished=True)


def test_torch_is_imported_by_the_measuring_process_alone() -> None:
    code = "import sys, triptych.profiler; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
