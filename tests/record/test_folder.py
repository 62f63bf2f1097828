"""The run folder: all of it or nothing, and read back as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.record import build

from triptych.record import folder as folder_module
from triptych.record import read_run, read_summary, summarise, tables, write_run
from triptych.record.columns import DERIVED_REQUEST_COLUMNS, REQUEST_COLUMNS
from triptych.record.run import Run
from triptych.spec.base import SpecError


@pytest.fixture
def run() -> Run:
    return build.split_run()


@pytest.fixture
def folder(run: Run, tmp_path: Path) -> Path:
    write_run(run, tmp_path / "run")
    return tmp_path / "run"


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_run_is_read_back_as_it_was(run: Run, folder: Path) -> None:
    back = read_run(folder)
    for name in [*REQUEST_COLUMNS, *DERIVED_REQUEST_COLUMNS]:
        np.testing.assert_array_equal(back.column(name), run.column(name), err_msg=name)
    for ours, theirs in zip(back.lanes, run.lanes, strict=True):
        assert (ours.instance, ours.lane) == (theirs.instance, theirs.lane)
        for name, column in theirs.columns.items():
            np.testing.assert_array_equal(ours.columns[name], column, err_msg=name)
    assert run.transfers is not None
    assert back.transfers is not None
    for name, column in run.transfers.columns.items():
        np.testing.assert_array_equal(back.transfers.columns[name], column)
    for name in ("instances", "horizon", "deployment_yaml", "workload_yaml", "slo", "producer", "meta"):
        assert getattr(back, name) == getattr(run, name), name


def test_its_metrics_can_be_computed_again(run: Run, folder: Path) -> None:
    assert summarise(read_run(folder)) == summarise(run)
    assert read_summary(folder) == summarise(run)


def test_every_column_says_its_unit(folder: Path) -> None:
    import pyarrow.parquet as pq

    schema = pq.read_schema(folder / "requests.parquet")
    says = {field.name: field.metadata or {} for field in schema}
    assert says["ttft"][b"unit"] == b"s"
    assert says["prompt_tokens"][b"unit"] == b"tokens"
    assert says["arrival"][b"description"] == REQUEST_COLUMNS["arrival"][1].encode()
    assert pq.read_table(folder / "requests.parquet")["status"].to_pylist() == ["finished", "finished"]


def test_batches_can_be_left_out(run: Run, tmp_path: Path) -> None:
    write_run(run, tmp_path / "run", batches="off")
    assert not files(tmp_path / "run") & {"batches.parquet", "spans.parquet"}
    back = read_run(tmp_path / "run")
    assert [len(lane) for lane in back.lanes] == [0, 0]
    np.testing.assert_array_equal(back.column("itl_max"), run.column("itl_max"))
    assert read_summary(tmp_path / "run") == summarise(run)
    with pytest.raises(ValueError, match="not all batches"):
        summarise(back)


def test_batches_can_be_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "_SAMPLE_ROWS", 4)
    lane = build.lane(*[{"start": float(i), "first": 1.0} for i in range(10)])
    write_run(build.run([], [lane]), tmp_path / "run", batches="sample")
    (back,) = read_run(tmp_path / "run").lanes
    assert back["start"].tolist() == [0.0, 3.0, 6.0, 9.0]


def test_many_lanes_are_written_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_GROUP_ROWS", 5)
    infos = [replace(build.INSTANCE, id=i) for i in range(7)]
    lanes = [build.lane(*[{"start": float(i), "first": 1.0}] * i, instance=i) for i in range(7)]
    write_run(build.run([], lanes, instances=infos), tmp_path / "run")
    back = read_run(tmp_path / "run").lanes
    assert [lane["start"].tolist() for lane in back] == [[float(i)] * i for i in range(7)]


def test_a_run_replaces_an_earlier_one(run: Run, folder: Path) -> None:
    write_run(replace(run, horizon=99.0), folder, batches="off")
    assert read_run(folder).horizon == 99.0
    assert "spans.parquet" not in files(folder)
    assert files(folder.parent) == {"run"}


def test_an_empty_folder_will_do_and_parents_are_made(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_run(run, tmp_path / "empty")
    write_run(run, tmp_path / "a" / "b" / "run")
    assert len(read_run(tmp_path / "empty")) == len(read_run(tmp_path / "a" / "b" / "run")) == 2


def test_nothing_else_is_overwritten(run: Run, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("all my work")
    with pytest.raises(SpecError, match="holds something that is no run"):
        write_run(run, tmp_path / "thesis")
    with pytest.raises(SpecError, match="is a file"):
        write_run(run, tmp_path / "thesis" / "chapter1.tex")
    assert files(tmp_path / "thesis") == {"chapter1.tex"}


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt])
def test_what_fails_half_way_leaves_no_trace(run: Run, folder: Path, fault: type[BaseException]) -> None:
    def fail(run: Run, path: Path) -> None:
        path.write_text("half a tra")
        raise fault

    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(fault):
        write_run(replace(run, horizon=99.0), folder, trace=fail)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(fault):
        write_run(run, folder.parent / "new", trace=fail)
    assert files(folder.parent) == {"run"}


def broken(folder: Path, name: str) -> str:
    with pytest.raises(SpecError) as caught:
        (read_summary if name == "summary.json" else read_run)(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def test_no_run_is_told(tmp_path: Path) -> None:
    assert "there is no run here" in broken(tmp_path, "")
    assert "no such folder" in broken(tmp_path / "nowhere", "")


@pytest.mark.parametrize(
    "name",
    ["requests.parquet", "batches.parquet", "spans.parquet", "transfers.parquet", "summary.json"],
)
def test_a_missing_or_broken_file_is_told(folder: Path, name: str) -> None:
    (folder / name).write_text("garbage")
    assert name in broken(folder, name)
    (folder / name).unlink()
    assert f"{name}: is missing" in broken(folder, name)


def test_a_missing_declaration_is_told(folder: Path) -> None:
    (folder / "workload.yaml").unlink()
    assert "workload.yaml cannot be read" in broken(folder, "workload.yaml")


def test_a_missing_column_is_told(folder: Path) -> None:
    import pyarrow.parquet as pq

    path = folder / "requests.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["end"]), path)
    assert "end: no such column" in broken(folder, path.name)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": "something else"}, "not of a run"),
        ({"version": 99}, "version 99"),
        ({"instances": [{"id": 0}]}, "is broken"),
        ({"lanes": "none"}, "is broken"),
    ],
)
def test_a_broken_description_is_told(folder: Path, change: dict[str, object], problem: str) -> None:
    path = folder / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert problem in broken(folder, "run.json")


def test_a_summary_of_another_version_is_told(folder: Path) -> None:
    (folder / "summary.json").write_text('{"horizon": 1}')
    assert "not a summary of this version" in broken(folder, "summary.json")


def test_a_run_is_printed_in_one_line(run: Run) -> None:
    assert repr(run) == "<Run by simulate: 2 of 2 requests finished, 2 instances, 10 s>"


def test_statuses_are_read_by_name(run: Run) -> None:
    assert run.column("status").tolist() == ["finished", "finished"]
    assert run.requests["status"].dtype == np.int8
