"""The second half of `make demo`: what it predicts before and after it measures rests on the same profile."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from triptych.profiles import Profile, library, write_profile
from triptych.spec.deployment import Deployment
from triptych.validation import profiling
from triptych.validation.server import Interrupted

EXAMPLE = Path(__file__).parents[1] / "examples/serve_and_bench.py"
PROFILE = "cpu-small-vl-fp32"


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example, run from a folder of its own, by a user without profiles."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(library.FOLDER, str(tmp_path / "profiles"))
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE)])
    spec = spec_from_file_location("serve_and_bench", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("known", [True, False], ids=["on the processor of the profile", "on another"])
def test_both_predictions_rest_on_the_same(
    known: bool, demo: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = library.load_profile(PROFILE)
    here = shipped.info.model_copy(update={"device": "CPU"})
    if known:
        write_profile(Profile(here, shipped.columns), library.user_folder() / f"{PROFILE}.parquet")
    monkeypatch.setattr(profiling, "is_this", lambda clocks: True)
    rests: list[Deployment] = []

    def validate(*words: Any, ensure_profile: Any, **more: Any) -> None:
        rests.append(ensure_profile(Deployment.load(words[0]), lambda *so_far: True))
        raise Interrupted

    monkeypatch.setattr(demo, "validate", validate)
    assert demo.main() == 130
    (used,) = rests
    said = " ".join(capsys.readouterr().out.split())
    if known:
        assert used.pools["all"].profile == (PROFILE,)
        assert f"predictions rest on the profile {PROFILE}" in said
        assert "predicted time rests on:" in said
    else:
        assert used.pools["all"].profile == ()
        assert "no profile is known: predictions rest on the roofline; to measure: triptych profile" in said
        assert "predicted from the roofline alone" in said
    assert "40 of 40 requests finished" in said
