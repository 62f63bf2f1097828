"""The whole-iteration table of splitwise-sim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.profiles.data import DATA, edit, published, scale, write_csv

from triptych.profiles.readers.splitwise import read_splitwise
from triptych.spec.base import SpecError

TABLE = DATA / "splitwise/splitwise_perf_model.csv"


def table(path: Path, **changes: Any) -> Path:
    columns: dict[str, Any] = {
        "model": ["llama2-70b", "llama2-70b", "bloom-176b"],
        "hardware": "h100-80gb",
        "prompt_size": 512,
        "batch_size": [4, 4, 1],
        "token_size": 128,
        "prompt_time": [300.0, 320.0, 200.0],
        "token_time": 40.0,
        "e2e_time": [300.0 + 128 * 40, 320.0 + 128 * 40, 5320.0],
        "tensor_parallel": 2,
    }
    return write_csv(path / "table.csv", {**columns, **changes})


def test_a_run_is_a_prompt_iteration_and_token_iterations(tmp_path: Path) -> None:
    profile = read_splitwise(table(tmp_path))
    assert (profile.info.device, profile.models) == ("H100", ["Llama-2-70B"])
    prompt = profile.of(operator="prompt iteration").columns
    assert (prompt["units"].tolist(), prompt["decodes"].tolist()) == ([2048], [4])
    assert prompt["seconds"] == pytest.approx([0.31])
    assert prompt["deviation"] == pytest.approx([0.01])
    assert prompt["repeats"].tolist() == [2]
    token = profile.of(operator="token iteration").columns
    assert (token["decodes"].tolist(), token["decode_kv"].tolist()) == ([4], [512 + 64])
    assert "bloom-176b" in profile.info.notes


def test_a_file_of_several_devices_needs_one(tmp_path: Path) -> None:
    hardware = ["h100-80gb", "a100-80gb", "h100-80gb-pcap"]
    file = table(tmp_path, hardware=hardware, prompt_time=[300.0, 900.0, 400.0])
    with pytest.raises(SpecError, match="the file is of A100-80GB, H100; give the device"):
        read_splitwise(file)
    assert read_splitwise(file, device="A100-80GB").columns["repeats"].tolist() == [1, 1]
    with pytest.raises(SpecError, match=r"hardware: no row is of H200; the file has A100-80GB, H100"):
        read_splitwise(file, device="H200")


def test_a_few_runs_faster_than_the_data_sheet_are_left_out(tmp_path: Path) -> None:
    file = table(tmp_path, model="llama2-70b", batch_size=[4, 4, 64], prompt_time=[300.0, 300.0, 363.0])
    profile = read_splitwise(file)
    assert set(profile.columns["decodes"].tolist()) == {4}
    assert "faster than the data sheet: 1 rows" in profile.info.notes


def test_a_wrong_unit_is_refused(tmp_path: Path) -> None:
    file = table(tmp_path)
    scale(file, "prompt_time", 1e-3)
    with pytest.raises(SpecError, match=r"table\.csv: prompt_time, row 0: .* like s where ms belong"):
        read_splitwise(file)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("token_time", "nan", r"token_time, row 1: 'nan' is no number"),
        ("token_time", -1, r"token_time, row 1: -1\.0 is negative"),
        ("batch_size", 0, r"batch_size, row 1: 0 is nothing to measure"),
        ("tensor_parallel", 0.5, r"tensor_parallel, row 1: '0\.5' is no whole number"),
    ],
)
def test_a_fault_is_refused_by_column_and_row(column: str, value: object, says: str, tmp_path: Path) -> None:
    file = table(tmp_path)
    edit(file, 1, column, value)
    with pytest.raises(SpecError, match=says):
        read_splitwise(file)


@published
@pytest.mark.parametrize("device", ["A100-80GB", "H100"])
def test_the_published_table_is_read(device: str) -> None:
    profile = read_splitwise(TABLE, device=device)
    assert profile.models == ["Llama-2-70B"]
    assert set(profile.columns["tensor"].tolist()) == {2, 4, 8}
    # 64 prompts of 512 tokens on two devices would have to be faster than the devices are.
    assert not len(profile.of(tensor=2, decodes=64))
    assert "5 rows" in profile.info.notes
