"""Parquet files of aiconfigurator, from a folder and from an installed package, and tables of collectives."""

from __future__ import annotations

import shutil
from collections import Counter
from importlib import metadata
from pathlib import Path

import pytest
from tests.profiles.data import DATA, aic_folder, published, set_parquet, write_csv

from triptych.profiles.readers import aiconfigurator
from triptych.profiles.readers.aiconfigurator import (
    installed_aiconfigurator,
    read_aiconfigurator,
    read_installed,
)
from triptych.profiles.readers.nccl import read_nccl
from triptych.spec.base import SpecError

H100 = DATA / "aic_h100/operators/h100_sxm/vllm_0.19.0"
COMM = DATA / "vllm_rtx/comm_rtxpro6000"


@published
def test_the_published_tables_are_read() -> None:
    profile = read_aiconfigurator(H100)
    assert (profile.info.device, profile.models) == ("H100", [""])
    counts = Counter(profile.columns["operator"].tolist())
    assert (counts["matmul"], counts["decode attention"], counts["all-reduce"]) == (101003, 45056, 69)
    assert counts["prefill attention"] == 40392
    assert len(profile.of(operator="prefill attention", prompts=1)) == 5984
    assert len(profile.of(operator="experts", inputs=2048, outputs=768, experts=128, top_k=8, units=1))


@published
def test_an_older_release_of_the_tables_is_read_too() -> None:
    profile = read_aiconfigurator(H100.with_name("vllm_0.14.0"))
    assert (profile.info.device, profile.info.versions["gemm"]) == ("H100", "0.14.0")
    operators = {"matmul", "prefill attention", "decode attention", "experts", "all-reduce"}
    assert operators <= set(profile.columns["operator"].tolist())


@published
def test_messages_of_nccl_are_counted_in_elements() -> None:
    """A message of 2-byte elements takes as long as one of twice as many 1-byte elements."""
    profile = read_nccl(COMM / "nccl_2.29.2.csv")
    for operator in ("all-reduce", "all-gather", "all-to-all"):
        rows = profile.of(operator=operator, members=2, bytes=2.0**29)
        half, whole = rows.of(precision="fp16").columns, rows.of(precision="int8").columns
        assert half["seconds"] == pytest.approx(whole["seconds"], rel=0.02)


@published
def test_an_engine_s_own_all_reduce_comes_before_that_of_nccl() -> None:
    profile = read_nccl(COMM)
    assert set(profile.of(operator="all-reduce", members=2).columns["precision"].tolist()) == {"bf16"}
    assert len(profile.of(operator="all-reduce NCCL", members=2))
    assert set(profile.of(operator="all-reduce", members=4).columns["precision"].tolist()) == {"fp16", "int8"}


def test_kernels_say_their_shape(tmp_path: Path) -> None:
    profile = read_aiconfigurator(aic_folder(tmp_path / "h100"))
    assert profile.models == [""]
    matmul = profile.of(operator="matmul", precision="bf16").columns
    assert [matmul[name][0] for name in ("inputs", "outputs", "units")] == [4096, 4096, 8192]
    assert matmul["seconds"] == pytest.approx([0.4e-3])
    assert len(profile.of(operator="matmul", precision="fp8_block"))
    decode = profile.of(operator="decode attention").columns
    shape = [decode[name][0] for name in ("heads", "kv_heads", "head_dim", "window", "decodes", "decode_kv")]
    assert shape == [32, 8, 128, 0, 64, 1024]
    assert decode["kv_precision"].tolist() == ["fp8"]


def test_prompts_of_one_launch_are_counted(tmp_path: Path) -> None:
    prefill = read_aiconfigurator(aic_folder(tmp_path / "h100")).of(operator="prefill attention").columns
    assert (prefill["prompts"].tolist(), prefill["units"].tolist()) == ([1, 4], [4096, 4096])
    assert prefill["history"].tolist() == [0, 0]


def test_experts_with_other_than_balanced_loads_are_kept_apart(tmp_path: Path) -> None:
    profile = read_aiconfigurator(aic_folder(tmp_path / "h100"))
    balanced = profile.of(operator="experts").columns
    assert (balanced["tensor"].tolist(), balanced["outputs"].tolist()) == ([1, 2], [768, 768])
    assert profile.of(operator="experts power_law_1.2").columns["groups"].tolist() == [8]


def test_all_reduces_from_a_graph_and_without_are_kept_apart(tmp_path: Path) -> None:
    profile = read_aiconfigurator(aic_folder(tmp_path / "h100"))
    for operator, seconds in (("all-reduce", 5e-6), ("all-reduce eager", 20e-6), ("all-reduce NCCL", 8e-6)):
        row = profile.of(operator=operator, members=2).columns
        assert (row["seconds"].tolist(), row["bytes"].tolist()) == ([pytest.approx(seconds)], [2048])
    assert profile.of(operator="all-reduce", members=8).columns["seconds"] == pytest.approx([20e-6])


def test_an_installed_package_is_found_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = aic_folder(tmp_path / "files")
    data = tmp_path / "aiconfigurator_core/systems/data/h100_sxm"
    for kind, name, version in (
        ("gemm", "gemm", "0.24.0"),
        ("attention", "generation_attention", "0.9.0"),
        ("attention", "context_attention", "0.30.0"),
        ("moe", "moe", "0.24.0rc2"),
    ):
        target = data / kind / "vllm" / version / f"{name}_perf.parquet"
        target.parent.mkdir(parents=True)
        shutil.copy(files / target.name, target)

    class Package:
        def locate_file(self, path: str) -> Path:
            return tmp_path / path

    monkeypatch.setattr(metadata, "distribution", lambda name: Package())
    assert list(installed_aiconfigurator()) == ["aiconfigurator-h100_sxm-vllm-0.24.0"]
    profile = read_installed("aiconfigurator-h100_sxm-vllm-0.24.0")
    operators = set(profile.columns["operator"].tolist())
    # Attention is the newest that is not newer than the version that was asked for.
    assert operators == {"matmul", "decode attention", "experts", "experts power_law_1.2"}
    assert profile.info.name == "aiconfigurator-h100_sxm-vllm-0.24.0"
    with pytest.raises(SpecError, match=r"did you mean 'aiconfigurator-h100_sxm-vllm-0\.24\.0'"):
        read_installed("aiconfigurator-h100_sxm-vllm-0.24")


def test_without_the_package_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> None:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "distribution", none)
    assert installed_aiconfigurator() == {}


@pytest.mark.parametrize(
    ("versions", "limit", "found"),
    [
        (["0.9.0", "0.10.0"], None, "0.10.0"),
        (["1.3.0rc9", "1.3.0rc20"], None, "1.3.0rc20"),
        (["1.3.0", "1.3.0rc20"], None, "1.3.0"),
        (["0.19.0", "0.24.0"], "0.20.0", "0.19.0"),
    ],
)
def test_versions_are_ordered_as_people_do(
    versions: list[str], limit: str | None, found: str, tmp_path: Path
) -> None:
    for version in versions:
        (tmp_path / version).mkdir()
    newest = aiconfigurator._newest(tmp_path, limit)
    assert newest is not None
    assert newest.name == found


REFUSED = {
    "a column is missing": ("gemm", "latency", [], r"gemm_perf\.parquet: latency: no such column"),
    "NaN": ("gemm", "latency", [0.4, float("nan")], r"gemm_perf\.parquet: latency, row 1: nan is no number"),
    "empty": ("gemm", "latency", [None, 0.3], r"latency, row 0: nan is no number"),
    "text": ("gemm", "m", ["a", "b"], r"m, row 0: 'a' is no number"),
    "a negative time": (
        "moe",
        "latency",
        [0.1, -0.1, 0.1],
        r"moe_perf\.parquet: latency, row 1: -0\.1 is neg",
    ),
    "s, where ms belong": ("gemm", "latency", [4e-4, 3e-4], r"latency, row 0: .* like s where ms belong"),
    "us, where ms belong": ("gemm", "latency", [400.0, 300.0], r"latency, row 0: .* like us where ms belong"),
    "attention in s": ("context_attention", "latency", [3e-4, 1e-3], r"latency, row 0: .* like s where ms"),
    "another device": (
        "moe",
        "device",
        ["NVIDIA H200"] * 3,
        r"moe_perf\.parquet: device, row 0: 'NVIDIA H200' is not H100",
    ),
    "several devices": (
        "gemm",
        "device",
        ["NVIDIA H100 80GB HBM3", "NVIDIA H200"],
        r"device, row 1: 'NVIDIA H200' is not 'NVIDIA H100 80GB HBM3' of row 0",
    ),
    "no such device": (
        "gemm",
        "device",
        ["TPU", "TPU"],
        r"device, row 0: 'TPU' is no device of the catalogue",
    ),
    "a collective of one": ("nccl", "num_gpus", [1, 2, 2], r"num_gpus, row 0: 1 is no group of devices"),
    "no such collective": (
        "nccl",
        "op_name",
        ["all_reduce", "gossip", "all_gather"],
        r"nccl_perf\.parquet: op_name, row 1: 'gossip' is none of",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_fault_is_refused_by_file_column_and_row(fault: str, tmp_path: Path) -> None:
    name, column, values, says = REFUSED[fault]
    folder = aic_folder(tmp_path / "h100")
    set_parquet(folder / f"{name}_perf.parquet", column, values)
    with pytest.raises(SpecError, match=says):
        read_aiconfigurator(folder)


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    folder = aic_folder(tmp_path / "h100")
    (folder / "gemm_perf.parquet").write_text("m,n,k\n", encoding="utf-8")
    with pytest.raises(SpecError, match=r"gemm_perf\.parquet: cannot be read as Parquet"):
        read_aiconfigurator(folder)
    with pytest.raises(SpecError, match=r"holds none of gemm_perf\.parquet"):
        read_aiconfigurator(tmp_path)


def test_a_few_slow_rows_are_measurements_and_no_wrong_unit(tmp_path: Path) -> None:
    folder = aic_folder(tmp_path / "h100")
    set_parquet(folder / "gemm_perf.parquet", "latency", [0.4, 1000.0])
    assert len(read_aiconfigurator(folder).of(operator="matmul")) == 2


def test_collectives_in_s_are_refused(tmp_path: Path) -> None:
    columns = {
        "device": "NVIDIA H200",
        "version": "2.29.2",
        "op_name": ["all_reduce", "all_gather"],
        "nccl_dtype": "half",
        "num_gpus": 8,
        "message_size": 2**28,
        "latency": [0.002, 0.001],
    }
    with pytest.raises(SpecError, match=r"nccl\.csv: latency, row 0: .* like s where ms belong"):
        read_nccl(write_csv(tmp_path / "nccl.csv", columns))
