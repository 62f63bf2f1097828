"""Layer profiles of vLLM: what is read of them, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.profiles.data import DATA, edit, published, scale, vllm_folder, write_csv

from triptych import catalog
from triptych.profiles.readers.vllm import is_vllm, read_vllm
from triptych.spec.base import SpecError
from triptych.spec.yaml import dump_yaml, parse_yaml

PROFILES = DATA / "vllm_rtx/profiles"
CASES = {
    "RTXPRO6000/meta-llama/Llama-3.1-8B/bf16": ("RTX-PRO-6000", "Llama-3.1-8B", [1, 2]),
    "RTXPRO6000/Qwen/Qwen3-32B/bf16": ("RTX-PRO-6000", "Qwen3-32B", [1, 2]),
    "RTXPRO6000/Qwen/Qwen3-30B-A3B-Instruct-2507/bf16": ("RTX-PRO-6000", "Qwen3-30B-A3B-2507", [1, 2]),
    "RTX4090/meta-llama/Llama-3.1-8B/bf16": ("RTX-4090", "Llama-3.1-8B", [1]),
}


@published
@pytest.mark.parametrize("case", CASES)
def test_a_published_profile_is_read_whole(case: str) -> None:
    device, model, tensor = CASES[case]
    profile = read_vllm(PROFILES / case)
    assert (profile.info.device, profile.models) == (device, [model])
    assert sorted(set(profile.columns["tensor"].tolist())) == tensor
    files = [file for file in (PROFILES / case).glob("tp*/*.csv") if file.name != "skew_fit.csv"]
    lines = sum(len(file.read_text(encoding="utf-8").splitlines()) - 1 for file in files)
    assert len(profile) == lines, "these files hold no row twice"
    assert set(profile.info.unequal) == {str(each) for each in tensor}


@published
def test_rows_are_where_the_files_have_them() -> None:
    own = read_vllm(PROFILES / "RTXPRO6000/meta-llama/Llama-3.1-8B/bf16").of(tensor=1)
    assert own.of(operator="mlp up", units=1024).columns["seconds"] == pytest.approx([586.218e-6])
    assert own.of(operator="head", units=1).columns["seconds"] == pytest.approx([714.006e-6])
    chunk = own.of(operator="attention", units=2048, history=512, decodes=0)
    assert chunk.columns["seconds"] == pytest.approx([234.614e-6])
    experts = read_vllm(PROFILES / "RTXPRO6000/Qwen/Qwen3-30B-A3B-Instruct-2507/bf16").of(operator="experts")
    row = experts.of(units=64, touched=32)
    assert row.columns["seconds"] == pytest.approx([235.594e-6])
    assert (row.columns["experts"][0], row.columns["top_k"][0]) == (128, 8)


@published
def test_kv_prefill_is_the_history_and_not_the_total() -> None:
    """A chunk is listed with less `kv_prefill` than it has tokens, and takes longer the more there is."""
    own = read_vllm(PROFILES / "RTXPRO6000/Qwen/Qwen3-32B/bf16").of(tensor=1, units=2048, decodes=0)
    less = own.select(own.columns["history"] < 2048)
    order = np.argsort(less.columns["history"])
    seconds = less.columns["seconds"][order]
    assert len(less) >= 8
    assert (np.diff(seconds[-6:]) > 0).all()


def test_layers_have_the_names_of_cost(tmp_path: Path) -> None:
    profile = read_vllm(vllm_folder(tmp_path / "bf16"))
    names = set(profile.columns["operator"].tolist())
    assert names == {"norm+residual add", "qkv", "mlp up", "head", "sampler", "attention"}
    mixed = profile.of(operator="attention", units=64)
    assert [mixed.columns[name][0] for name in ("history", "decodes", "decode_kv")] == [128, 4, 1024]
    assert set(profile.columns["repeats"].tolist()) == {3}
    assert set(profile.columns["provenance"].tolist()) == {"measured"}


def test_the_profile_says_where_it_comes_from(tmp_path: Path) -> None:
    info = read_vllm(vllm_folder(tmp_path / "bf16")).info
    assert info.name == "rtx-pro-6000-llama-3.1-8b-bf16-vllm-0.19.0"
    assert info.versions["vllm"] == "0.19.0"
    assert info.measured_at.startswith("2026-04-24")
    assert "LLMServingSim" in info.source


def test_rows_that_repeat_are_averaged(tmp_path: Path) -> None:
    folder = vllm_folder(tmp_path / "bf16")
    columns = {"layer": ["act_fn", "act_fn", "act_fn"], "tokens": [8, 8, 16], "time_us": [10.0, 14.0, 20.0]}
    write_csv(folder / "tp1/dense.csv", columns)
    rows = read_vllm(folder).of(operator="mlp activation")
    assert rows.columns["seconds"] == pytest.approx([12e-6, 20e-6])
    assert rows.columns["repeats"].tolist() == [6, 3]
    assert rows.columns["deviation"][0] == pytest.approx(2e-6)


def test_a_model_of_the_same_operators_may_take_it(tmp_path: Path) -> None:
    folder = vllm_folder(tmp_path / "bf16")
    other = catalog.model("Llama-3.1-8B")
    longer = other.model_copy(
        update={"name": "longer", "text": other.text.model_copy(update={"max_context": 8192})}
    )
    assert read_vllm(folder, model=longer).models == ["longer"]
    with pytest.raises(SpecError, match=r"meta\.yaml: model: is of Llama-3\.1-8B, not of Qwen3-32B"):
        read_vllm(folder, model="Qwen3-32B")


def test_other_folders_are_told_apart(tmp_path: Path) -> None:
    assert is_vllm(vllm_folder(tmp_path / "bf16"))
    assert not is_vllm(tmp_path)


def meta(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        about = folder / "meta.yaml"
        data = parse_yaml(about.read_text(encoding="utf-8"))
        about.write_text(dump_yaml({**data, **changes}), encoding="utf-8")

    return change


def field(file: str, row: int, column: str, value: object) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "tp1" / file, row, column, value)


def times(file: str, factor: float) -> Callable[[Path], None]:
    return lambda folder: scale(folder / "tp1" / file, "time_us", factor)


def drop(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "tp1" / file).unlink()


def heads(**sizes: int) -> Callable[[Path], None]:
    return meta(engine_effective={"hf_overrides": sizes})


def header(folder: Path) -> None:
    file = folder / "tp1/attention.csv"
    file.write_text(file.read_text(encoding="utf-8").replace("time_us", "time_ns"), encoding="utf-8")


def short(folder: Path) -> None:
    file = folder / "tp1/attention.csv"
    file.write_text(file.read_text(encoding="utf-8") + "16,0,0\n", encoding="utf-8")


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "a column is missing": (header, r"attention.csv: time_us: no such column; did you mean 'time_ns'"),
    "a row is short": (short, r"attention.csv: row 4: has 3 fields, the header has 5"),
    "a file is missing": (drop("per_sequence.csv"), r"per_sequence.csv: no such file"),
    "not a number": (
        field("dense.csv", 4, "time_us", "nan"),
        r"dense.csv: time_us, row 4: 'nan' is no n",
    ),
    "text": (field("dense.csv", 1, "tokens", "many"), r"dense.csv: tokens, row 1: 'many' is no number"),
    "a fraction": (field("dense.csv", 1, "tokens", 1.5), r"tokens, row 1: '1.5' is no whole number"),
    "a negative time": (field("attention.csv", 2, "time_us", -30), r"time_us, row 2: -30.0 is negative"),
    "a negative size": (field("attention.csv", 1, "kv_prefill", -1), r"kv_prefill, row 1: '-1' is negative"),
    "no such layer": (field("dense.csv", 0, "layer", "conv"), r"dense.csv: layer, row 0: 'conv' is none of"),
    "nothing was run": (field("attention.csv", 2, "n_decode", 0), r"n_decode, row 2: 0 and no chunk"),
    "ms, where us belong": (
        times("dense.csv", 1e-3),
        r"dense.csv: time_us, row \d+: .* like ms where us",
    ),
    "ns, where us belong": (
        times("dense.csv", 1e3),
        r"dense.csv: time_us, row \d+: .* like ns where us",
    ),
    "attention in ms": (times("attention.csv", 1e-3), r"attention.csv: time_us, row 0: .* like ms where us"),
    "the head in ms": (
        times("per_sequence.csv", 1e-3),
        r"per_sequence.csv: time_us, row 0: .* like ms",
    ),
    "no such model": (meta(model="acme/Llama-9"), r"meta.yaml: model: .*Llama-9' is no known model"),
    "another model": (
        meta(model="Qwen/Qwen3-32B"),
        r"meta.yaml: .*hf_overrides.num_attention_heads",
    ),
    "another MLP": (
        heads(num_attention_heads=32, intermediate_size=11008),
        r"hf_overrides.intermediate_size: 11008 is not that of Llama-3.1-8B under tensor parallelism 1",
    ),
    "another vocabulary": (heads(vocab_size=32000), r"hf_overrides.vocab_size: 32000 is not that of"),
    "no such device": (meta(hardware="TPUv5"), r"meta.yaml: hardware: 'TPUv5' is no device of the catalogue"),
    "experts of a dense model": (
        lambda folder: (
            write_csv(folder / "tp1/moe.csv", {"tokens": [1], "activated_experts": [8], "time_us": [50.0]})
            and None
        ),
        r"moe.csv: is of a mixture of experts, and the model is none",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_fault_is_refused_by_file_column_and_row(fault: str, tmp_path: Path) -> None:
    change, says = REFUSED[fault]
    folder = vllm_folder(tmp_path / "bf16")
    change(folder)
    with pytest.raises(SpecError) as error:
        read_vllm(folder)
    assert re.search(says, str(error.value)), str(error.value)
    assert "\n" not in str(error.value)
