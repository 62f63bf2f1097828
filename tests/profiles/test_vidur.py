"""CSV files of Vidur: what is read of them, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.profiles.data import DATA, edit, published, scale, vidur_folder

from triptych.profiles.readers.vidur import read_vidur
from triptych.spec.base import SpecError

A100 = DATA / "vidur_profiles/a100"


@published
def test_the_published_profile_is_read() -> None:
    profile = read_vidur(A100)
    assert (profile.info.device, profile.models) == ("A100-80GB", ["", "Llama-2-7B"])
    assert set(profile.of(operator="mlp up").columns["tensor"].tolist()) == {1, 2, 4, 8}
    row = profile.of(operator="qkv", tensor=1, units=1)
    assert row.columns["seconds"] == pytest.approx([65.7e-6])
    decode = profile.of(operator="decode attention", decodes=43, decode_kv=96)
    assert decode.columns["seconds"] == pytest.approx([84.8e-6], rel=0.02)


@published
def test_sizes_of_collectives_are_bytes() -> None:
    """Twice as many would need more than the 300 GB/s of a link, in one direction."""
    profile = read_vidur(A100 / "all_reduce.csv")
    for members in (2, 4, 8):
        row = profile.of(operator="all-reduce", members=members, bytes=67108864).columns
        rate = 2 * (members - 1) / members * row["bytes"] / row["seconds"]
        assert 150e9 < rate[0] < 300e9 < 2 * rate[0]
    assert len(profile.of(operator="all-reduce over 2 nodes", members=16))


@published
def test_the_kv_write_is_no_function_of_the_tokens_alone() -> None:
    file = A100 / "attention_a800.csv"
    header, *rows = (line.split(",") for line in file.read_text(encoding="utf-8").splitlines())
    place = {name: header.index(name) for name in ("batch_size", "prefill_chunk_size", "is_prefill")}
    write = header.index("time_stats.attn_kv_cache_save.mean")
    prompts = [float(row[write]) for row in rows if row[place["prefill_chunk_size"]] == "64"]
    decodes = [
        float(row[write])
        for row in rows
        if row[place["batch_size"]] == "64" and row[place["is_prefill"]] == "False"
    ]
    assert np.median(prompts) > 5 * np.median(decodes)


def test_operators_have_the_names_of_cost(tmp_path: Path) -> None:
    profile = read_vidur(vidur_folder(tmp_path))
    own = profile.of(model="Llama-2-7B")
    assert set(own.columns["operator"].tolist()) == {
        *("embedding", "norm", "qkv", "rope and KV write", "attention output", "mlp up", "mlp activation"),
        *("mlp down", "residual add", "prefill attention", "decode attention"),
    }
    # Both norms are one operator: the mean of 10 and 30 us.
    assert own.of(operator="norm", units=4096).columns["seconds"] == pytest.approx([20e-6])


def test_attention_has_the_kv_write_in_it(tmp_path: Path) -> None:
    profile = read_vidur(vidur_folder(tmp_path))
    prefill = profile.of(operator="prefill attention", units=64, history=128).columns
    assert prefill["seconds"] == pytest.approx([55e-6])
    assert prefill["deviation"] == pytest.approx([5e-6])
    decode = profile.of(operator="decode attention", decodes=43, decode_kv=96).columns
    assert decode["seconds"] == pytest.approx([84e-6])


def test_collectives_over_nodes_are_named_so(tmp_path: Path) -> None:
    profile = read_vidur(vidur_folder(tmp_path)).of(model="")
    assert profile.columns["operator"].tolist() == ["all-reduce", "all-reduce over 2 nodes"]
    assert profile.columns["bytes"].tolist() == [67108864, 67108864]


def test_the_device_is_that_of_a_folder_or_given(tmp_path: Path) -> None:
    folder = vidur_folder(tmp_path)
    assert read_vidur(folder).info.device == "A100-80GB"
    assert read_vidur(folder, device="A100-40GB").info.device == "A100-40GB"
    plain = folder.rename(tmp_path / "mine")
    with pytest.raises(SpecError, match="no folder on the path is named after a device; give the device"):
        read_vidur(plain)


def test_a_model_that_is_named_must_have_the_shape(tmp_path: Path) -> None:
    folder = vidur_folder(tmp_path)
    assert read_vidur(folder, model="CodeLlama-7b").models == ["", "CodeLlama-7b"]
    with pytest.raises(
        SpecError, match=r"attention\.csv: n_kv_head, row 0: 32 is not that of Mistral-7B-v0\.1, 8"
    ):
        read_vidur(folder, model="Mistral-7B-v0.1")
    with pytest.raises(
        SpecError, match=r"mlp\.csv: n_expanded_embd, row 0: 11008 is not that of Llama-2-13B"
    ):
        (folder / "attention.csv").unlink()
        edit_all(folder / "mlp.csv", {"n_embd": 5120, "n_head": 40, "n_kv_head": 40})
        read_vidur(folder, model="Llama-2-13B")


def edit_all(file: Path, values: dict[str, int]) -> None:
    rows = len(file.read_text(encoding="utf-8").splitlines()) - 1
    for row in range(rows):
        for column, value in values.items():
            edit(file, row, column, value)


def field(file: str, row: int, column: str, value: object) -> Callable[[Path], None]:
    return lambda folder: edit(folder / file, row, column, value)


def times(factor: float) -> Callable[[Path], None]:
    return lambda folder: scale(folder / "mlp.csv", "time_stats.mlp_up_proj.mean", factor)


def renamed(file: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / file
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")

    return change


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "a column is missing": (
        renamed("mlp.csv", "time_stats.attn_rope.mean", "time_stats.rotary.mean"),
        r"mlp\.csv: time_stats\.attn_rope\.mean: no such column",
    ),
    "not a number": (
        field("mlp.csv", 1, "time_stats.add.mean", ""),
        r"time_stats\.add\.mean, row 1: '' is no n",
    ),
    "a negative time": (
        field("attention.csv", 1, "time_stats.attn_decode.mean", -0.1),
        r"attention\.csv: time_stats\.attn_decode\.mean, row 1: -0\.1 is negative",
    ),
    "s, where ms belong": (times(1e-3), r"time_stats\.mlp_up_proj\.mean, row 1: .* like s where ms belong"),
    "us, where ms belong": (times(1e3), r"time_stats\.mlp_up_proj\.mean, row 1: .* like us where ms belong"),
    "a collective in s": (
        lambda folder: scale(folder / "all_reduce.csv", "time_stats.all_reduce.mean", 1e-3),
        r"all_reduce\.csv: time_stats\.all_reduce\.mean, row 0: .* like s where ms",
    ),
    "several prompts": (
        field("attention.csv", 0, "batch_size", 2),
        r"batch_size, row 0: 2 prompts at once are no single chunk",
    ),
    "a shape of no model": (
        lambda folder: edit_all(folder / "mlp.csv", {"n_expanded_embd": 12345}),
        r"mlp\.csv: n_expanded_embd, row 0: 12345 is not that of",
    ),
    "no such collective": (
        field("all_reduce.csv", 0, "collective", "gossip"),
        r"all_reduce\.csv: collective, row 0: 'gossip' is none of all_reduce, send_recv",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_fault_is_refused_by_file_column_and_row(fault: str, tmp_path: Path) -> None:
    change, says = REFUSED[fault]
    folder = vidur_folder(tmp_path)
    change(folder)
    with pytest.raises(SpecError) as error:
        read_vidur(folder)
    assert re.search(says, str(error.value)), str(error.value)


def test_a_folder_without_such_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"holds no CSV file with columns time_stats"):
        read_vidur(tmp_path)
