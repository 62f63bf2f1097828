"""Profiles by name and by path, whatever their format, and the list of them."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from tests.profiles.data import aic_folder, vidur_folder, vllm_folder, write_csv

from triptych.profiles import COLUMNS, Profile, ProfileInfo, library, profile_of, write_profile
from triptych.profiles.library import files_of, load_profile, profiles, user_folder
from triptych.report.profiles import print_profiles
from triptych.spec.base import SpecError

DOCUMENT = (Path(__file__).parents[2] / "docs/profiles.md").read_text(encoding="utf-8")


def small(name: str = "mine", model: str = "opt-125m") -> Profile:
    info = ProfileInfo(name=name, device="CPU", source="a test", measured_at="2026-11-21T10:00:00")
    return profile_of(
        info, {"model": model, "operator": ["qkv", "head"], "units": [1, 2], "seconds": [1e-3, 2e-3]}
    )


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own folder of profiles, and a working directory beside it."""
    monkeypatch.setenv(library.FOLDER, str(tmp_path / "own"))
    monkeypatch.setattr(library, "installed_aiconfigurator", dict)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "own"


def test_a_profile_of_the_user_is_found_by_the_name_of_its_file(folder: Path) -> None:
    write_profile(small("other"), folder / "mine.parquet")
    assert load_profile("mine").info.name == "mine"
    assert load_profile("MINE").columns["units"].tolist() == [1, 2]
    assert "mine" in [each.info.name for each in profiles()]
    assert files_of("mine") == (folder / "mine.parquet",)


def test_the_folder_is_in_the_cache_unless_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(library.FOLDER)
    assert user_folder() == Path.home() / ".cache/triptych/profiles"


def test_a_file_is_found_from_the_working_directory_and_beside_the_deployment(tmp_path: Path) -> None:
    write_profile(small(), tmp_path / "there/mine.parquet")
    assert len(load_profile("../there/mine.parquet")) == 2
    assert len(load_profile("mine.parquet", file=tmp_path / "there/deployment.yaml")) == 2
    with pytest.raises(SpecError, match=r"^pools\.a\.profile: mine\.parquet: no such file or folder in /"):
        load_profile("mine.parquet", "pools.a.profile")


def test_a_file_beside_the_deployment_comes_before_one_in_the_working_directory(tmp_path: Path) -> None:
    write_profile(small("here"), tmp_path / "here/mine.parquet")
    write_profile(small("there"), tmp_path / "there/mine.parquet")
    assert load_profile("mine.parquet", file=tmp_path / "there/deployment.yaml").info.name == "there"
    assert load_profile("mine.parquet").info.name == "here"


def splitwise(path: Path) -> Path:
    columns = {
        "model": ["llama2-70b"],
        "hardware": "h100-80gb",
        "prompt_size": 512,
        "batch_size": 4,
        "prompt_time": 300.0,
        "token_time": 40.0,
        "e2e_time": 5420.0,
        "tensor_parallel": 2,
    }
    return write_csv(path / "table.csv", columns)


def nccl(path: Path) -> Path:
    columns = {
        "device": "NVIDIA H200",
        "version": "2.29.2",
        "op_name": ["all_reduce"],
        "nccl_dtype": "half",
        "num_gpus": 8,
        "message_size": 1024,
        "latency": 0.01,
    }
    return write_csv(path / "nccl.csv", columns)


FORMATS: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "vllm": (lambda path: vllm_folder(path / "bf16"), "RTX-PRO-6000", "attention"),
    "vidur": (vidur_folder, "A100-80GB", "decode attention"),
    "a file of vidur": (lambda path: vidur_folder(path) / "all_reduce.csv", "A100-80GB", "all-reduce"),
    "aiconfigurator": (lambda path: aic_folder(path / "aic"), "H100", "matmul"),
    "a file of aiconfigurator": (lambda path: aic_folder(path) / "gemm_perf.parquet", "H100", "matmul"),
    "splitwise": (splitwise, "H100", "token iteration"),
    "nccl": (nccl, "H200", "all-reduce"),
    "a folder of nccl": (lambda path: nccl(path / "comm").parent, "H200", "all-reduce"),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_format_is_told_by_what_is_in_it(kind: str, tmp_path: Path) -> None:
    make, device, operator = FORMATS[kind]
    path = make(tmp_path / "foreign")
    profile = load_profile(path)
    assert profile.info.device == device
    assert len(profile.of(operator=operator))
    assert files_of(path) == (path,)


@pytest.mark.parametrize("kind", ["vllm", "aiconfigurator", "nccl"])
def test_a_profile_of_another_device_is_refused(kind: str, tmp_path: Path) -> None:
    path = FORMATS[kind][0](tmp_path / "foreign")
    with pytest.raises(SpecError, match="B200"):
        load_profile(path, device="B200")


def test_an_installed_package_is_asked_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = (aic_folder(tmp_path / "aic") / "gemm_perf.parquet",)
    installed = {"aiconfigurator-h100_sxm-vllm-0.24.0": files}
    monkeypatch.setattr(library, "installed_aiconfigurator", lambda: installed)
    assert files_of("aiconfigurator-h100_sxm-vllm-0.24.0") == files
    with pytest.raises(SpecError, match=r"did you mean 'aiconfigurator-h100_sxm-vllm-0\.24\.0'"):
        load_profile("aiconfigurator-h100_sxm-vllm-0.24")


def test_a_name_that_is_not_known_is_refused_with_the_nearest(folder: Path) -> None:
    write_profile(small(), folder / "cpu-opt-125m.parquet")
    says = r"^d\.yaml: profile: 'cpu-opt-125' is no known profile; did you mean 'cpu-opt-125m'\?$"
    with pytest.raises(SpecError, match=says):
        load_profile("cpu-opt-125", file="d.yaml")
    with pytest.raises(SpecError, match="use a name that `triptych profile list` shows, a file or a folder"):
        load_profile("zzz")
    assert files_of("zzz") == ()


def test_what_is_no_profile_is_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "other.csv", {"a": [1], "b": [2]})
    with pytest.raises(SpecError, match=r"other\.csv: none of the known formats; give a profile that"):
        load_profile(tmp_path / "other.csv")


def test_a_broken_file_of_the_user_is_named_and_in_nobody_else_s_way(folder: Path) -> None:
    write_profile(small(), folder / "mine.parquet")
    (folder / "broken.parquet").write_text("no", encoding="utf-8")
    assert len(load_profile("mine")) == 2
    for ask in (profiles, lambda: load_profile("broken")):
        with pytest.raises(SpecError, match=r"broken\.parquet: cannot be read as Parquet"):
            ask()


def printed(width: int, *args: object) -> list[str]:
    file = io.StringIO()
    print_profiles(*args, console=Console(file=file, width=width))  # type: ignore[arg-type]
    return file.getvalue().splitlines()


def test_the_list_says_what_there_is() -> None:
    kernels = small("kernels-of-any-model-that-were-measured-somewhere", model="")
    lines = printed(80, [small(), kernels], ["aiconfigurator-h100_sxm-vllm-0.24.0"])
    assert lines[0] == "kernels-of-any-model-that-were-measured-somewhere"
    assert lines[2] == "  for any model: head, qkv"
    assert lines[4:8] == ["mine", "  CPU  TP 1  2 operators  2 rows  2026-11-21", "  opt-125m", "  a test"]
    assert lines[-1] == "  aiconfigurator-h100_sxm-vllm-0.24.0"
    assert not any("…" in line for line in lines)


def test_the_list_is_ordered_by_device_and_long_lines_stay_below_their_name() -> None:
    source = "somebody who has a long name, with a program that has one too, under a licence that has not"
    a10 = Profile(ProfileInfo(name="zebra", device="A10", source=source), small().columns)
    lines = printed(60, [small("aardvark"), a10])
    names = [line for line in lines[: lines.index("")] if not line.startswith("  ")]
    assert names == ["zebra", "aardvark"]
    assert lines[3:5] == [f"  {line}" for line in textwrap.wrap(source, 58)]


def test_a_list_of_none_says_so() -> None:
    assert "triptych profile" in printed(200, [])[0]


def test_the_document_names_every_column_with_its_default() -> None:
    rows = {
        cells[1].strip().strip("`"): cells
        for line in DOCUMENT.splitlines()
        if line.startswith("| `") and len(cells := line.split("|")) == 6
    }
    assert list(rows) == list(COLUMNS)
    for name, column in COLUMNS.items():
        kind, meaning, default = (cell.strip() for cell in rows[name][2:5])
        assert kind == column.kind
        assert meaning == column.meaning
        assert default == shown(column.default), name


def shown(default: object) -> str:
    if default is None:
        return "required"
    return "empty" if default == "" else str(default).lower() if isinstance(default, bool) else str(default)


@pytest.mark.parametrize("name", list(ProfileInfo.model_fields))
def test_the_document_names_what_a_profile_says_of_its_origin(name: str) -> None:
    assert f"`{name}`" in DOCUMENT
