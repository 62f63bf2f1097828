"""What is printed comes as JSON too, and alone where it goes to standard output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from triptych import catalog
from triptych.cli import app
from triptych.spec.base import SpecError
from triptych.spec.device import Device, Node

ROOT = Path(__file__).parents[2]
SIMULATE = [
    "simulate",
    str(ROOT / "examples/deployments/mixed.yaml"),
    str(ROOT / "examples/workloads/vision-chat.yaml"),
    *("--set", "workload.requests=20", "--no-interval"),
]


@pytest.mark.parametrize("words", [SIMULATE, ["models"], ["devices"], ["profile", "list"]])
def test_standard_output_is_json_alone(words: list[str], tmp_path: Path) -> None:
    alone = CliRunner().invoke(app, [*words, "--json", "-"])
    assert alone.exit_code == 0
    printed = json.loads(alone.stdout)
    assert printed
    beside = CliRunner().invoke(app, [*words, "--json", str(tmp_path / "results.json")])
    assert len(beside.stdout.splitlines()) > 5
    written = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert type(written) is type(printed)
    assert len(written) == len(printed)


def test_a_place_where_no_file_can_be_is_refused_before_any_work(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*SIMULATE, "--json", str(tmp_path / "none/results.json")])
    assert isinstance(result.exception, SpecError)
    assert "no file can be there" in str(result.exception)


def test_the_examples_are_listed_as_json_alone() -> None:
    listed = json.loads(CliRunner().invoke(app, ["examples", "--json", "-"]).stdout)
    assert {"file", "about"} == set(listed[0])
    assert "deployments/mixed.yaml" in {one["file"] for one in listed}


@pytest.mark.parametrize("name", ["H100", "l40s"])
def test_a_device_is_shown_as_a_file_that_reads_back(name: str, tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["devices", "--show", name])
    (tmp_path / "device.yaml").write_text(shown.stdout, encoding="utf-8")
    assert Device.load(tmp_path / "device.yaml") == catalog.device(name)


def test_so_is_a_node(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["devices", "--show", "DGX-H100"])
    (tmp_path / "node.yaml").write_text(shown.stdout, encoding="utf-8")
    assert Node.load(tmp_path / "node.yaml") == catalog.node("DGX-H100")


def test_a_device_that_is_not_there() -> None:
    result = CliRunner().invoke(app, ["devices", "--show", "H1000"])
    assert isinstance(result.exception, SpecError)
    assert "H100" in str(result.exception)


def test_the_list_of_profiles_says_what_the_extra_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triptych.profiles.readers.aiconfigurator.installed_aiconfigurator", dict)
    assert "pip install 'triptych[aic]'" in CliRunner().invoke(app, ["profile", "list"]).stdout
