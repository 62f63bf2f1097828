"""`make gpu` has minutes on a machine that nobody has tried: nothing fails for a typo, nothing is lost."""

from __future__ import annotations

import json
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from triptych import catalog
from triptych.cli import app
from triptych.spec.deployment import Deployment
from triptych.spec.workload import WorkloadSpec

ROOT = Path(__file__).parents[1]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The benchmark, in an interpreter whose path it does not change for good."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import gpu as module

    return module


def part(gpu: Any, name: str, code: str, **more: Any) -> Any:
    return gpu.Part(name, ("-c", code), more.pop("seconds", 60), more.pop("needs", ()), **more)


def call(gpu: Any, monkeypatch: pytest.MonkeyPatch, folder: Path, *options: str, parts: list[Any]) -> int:
    monkeypatch.setattr(gpu, "parts", lambda place, work: parts)
    own = ["--rehearse", "--out", str(folder / "out"), "--work", str(folder / "work")]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *own, *options])
    return int(gpu.main())


def packed(folder: Path) -> dict[str, str]:
    with tarfile.open(folder / "out/results.tar.gz") as archive:
        files = {member.name: archive.extractfile(member) for member in archive if member.isfile()}
        return {name: file.read().decode() for name, file in files.items() if file is not None}


@pytest.mark.parametrize("where", ["gpu", "cpu"])
def test_every_part_is_a_command_that_there_is(gpu: Any, where: str, tmp_path: Path) -> None:
    place = gpu.gpu("H200") if where == "gpu" else gpu.rehearsal(tmp_path)
    assert catalog.device(place.device)
    found = gpu.parts(place, tmp_path)
    for each in found:
        program, *arguments = each.arguments
        if program == "-m" and arguments[0] == "pytest":
            files = [argument for argument in arguments if argument.startswith("tests/")]
            assert files and all((ROOT / file).exists() for file in files)
        elif program == "-m":
            command, *options = arguments[1:]
            options += ["--minutes", "1.00"] if each.weight else []
            group: Any = typer.main.get_command(app)
            context = group.commands[command].make_context(command, options)  # raises at what is wrong
            assert context.params["out"].is_relative_to(tmp_path)
        else:
            text = (ROOT / program).read_text(encoding="utf-8")
            assert all(f'"{option}"' in text for option in arguments if option.startswith("--"))
    for model, degrees in place.profiled.items():
        (own,) = [each for each in found if each.weight and model in each.arguments]
        shape = catalog.model(model).name.lower().replace(" ", "-")
        assert own.profile.stem == f"{place.kind}-{shape}-bf16", "as `run_profile` calls it"
        heads = catalog.model(model).text.heads
        assert all(heads % int(degree) == 0 for degree in degrees.split(","))
    for model in place.validated:
        assert model in place.profiled, "predictions rest on what was measured"
        deployment, workload = gpu_files(tmp_path, model)
        assert WorkloadSpec.load(workload).requests
        (pool,) = Deployment.load(deployment).pools.values()
        assert catalog.device(pool.device).name == catalog.device(place.device).name


def gpu_files(folder: Path, model: str) -> tuple[Path, Path]:
    name = Path(model).stem if model.endswith(".json") else model
    return folder / f"deployment-{name}.yaml", folder / f"workload-{name}.yaml"


def test_a_part_that_is_cut_off_leaves_what_it_had_and_the_others_go_on(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = (
        "import time\nprint('half of it')\ntry:\n time.sleep(99)\nexcept KeyboardInterrupt:\n print('kept')"
    )
    parts = [
        part(gpu, "slow_one", slow, seconds=2, least=1),
        part(gpu, "broken", "print('what was wrong'); raise SystemExit(3)"),
        part(gpu, "unfit", "", needs=("no_such_package",)),
        part(gpu, "good", "import os; print(os.environ['TRIPTYCH_PROFILES'])"),
    ]
    began = time.monotonic()
    assert call(gpu, monkeypatch, tmp_path, parts=parts) == 1
    assert time.monotonic() - began < 30
    about = json.loads((tmp_path / "out/about.json").read_text())
    assert about["parts"]["slow_one"] == "cut off after 2 s"
    assert about["parts"]["broken"].startswith("exit code 3 after ")
    assert about["parts"]["unfit"] == "left out: needs no_such_package"
    assert about["parts"]["good"] == "passed"
    assert packed(tmp_path)["slow_one.txt"] == "half of it\nkept\n"
    summary = (tmp_path / "out/summary.md").read_text()
    assert "what was wrong" in summary
    assert summary.strip() == capsys.readouterr().out.strip()
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "about.json",
        "results.tar.gz",
        "summary.md",
    ]


def test_a_later_call_goes_on_with_the_results_of_an_earlier_one(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "first/work"
    write = f"open({str(folder / 'found.txt')!r}, 'w').write('measured')"
    assert call(gpu, monkeypatch, tmp_path / "first", parts=[part(gpu, "one", write)]) == 0
    read = f"print(open({str(tmp_path / 'second/work/found.txt')!r}).read())"
    earlier = str(tmp_path / "first/out/results.tar.gz")
    second = [part(gpu, "two", read)]
    assert call(gpu, monkeypatch, tmp_path / "second", "--resume", earlier, parts=second) == 0
    assert {"one.txt": "", "two.txt": "measured\n"}.items() <= packed(tmp_path / "second").items()


def test_parts_run_in_the_order_in_which_they_are_asked_for(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parts = [part(gpu, name, "") for name in ("tests", "profile_a", "profile_b", "validate")]
    assert call(gpu, monkeypatch, tmp_path, "--only", "validate,profile", parts=parts) == 0
    about = json.loads((tmp_path / "out/about.json").read_text())
    assert list(about["parts"]) == ["validate", "profile_a", "profile_b"]


def test_what_measures_shares_the_time_that_is_left(gpu: Any) -> None:
    first, other, last = (
        part(gpu, name, "", weight=weight) for name, weight in zip("abc", (3, 0, 1), strict=True)
    )
    later = [other, last]
    around = gpu.AROUND
    beside = around + gpu.LATE
    assert gpu.budget(other, [last], 500.0) == 500.0
    assert gpu.budget(first, later, 2 * beside + other.seconds + 200.0) == around + 150.0
    assert gpu.budget(last, [], beside + 50.0) == around + 50.0
    assert gpu.budget(first, later, 10.0) < first.least, "too late: left out"


def test_all_of_it_fits_into_eight_minutes(gpu: Any, tmp_path: Path) -> None:
    found = gpu.parts(gpu.gpu("H200"), tmp_path)
    left = 8 * 60.0
    for place, each in enumerate(found):
        seconds = min(gpu.budget(each, found[place + 1 :], left), each.seconds)
        assert seconds >= each.least, each.name
        left -= seconds + (gpu.LATE if each.weight else 0)
    assert left >= 0


def test_a_profile_that_is_complete_is_not_begun_anew(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    results = {}
    for name in ("complete", "begun", "new"):
        profile = tmp_path / f"cuda-{name}-bf16.parquet"
        if name != "new":
            profile.write_text("rows")
        if name == "begun":
            (tmp_path / f".{profile.stem}.partial.jsonl").write_text("lines")
        results[name] = part(gpu, name, "", weight=1, profile=profile)
    assert call(gpu, monkeypatch, tmp_path, parts=list(results.values())) == 0
    about = json.loads((tmp_path / "out/about.json").read_text())
    complete = "left out: all of it is measured"
    assert about["parts"] == {"complete": complete, "begun": "passed", "new": "passed"}
    later = [results["complete"], results["begun"]]
    both = 2 * (gpu.AROUND + gpu.LATE)
    assert gpu.budget(results["new"], later, both + 200.0) == gpu.AROUND + 100.0


def wheel(folder: Path, name: str) -> Path:
    """A package of one module, which says where it is from."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    about = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": "FROM = 'wheel'\n",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return path


def test_packages_that_are_missing_are_added_and_none_is_replaced(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("triptych_only_in_a_wheel", "torch"):
        wheel(tmp_path / "wheels", name)
    code = "import triptych_only_in_a_wheel as one, torch; print(one.FROM, hasattr(torch, 'FROM'))"
    asked = [part(gpu, "part", code, needs=("triptych_only_in_a_wheel",))]
    wheels = str(tmp_path / "wheels")
    assert call(gpu, monkeypatch, tmp_path, "--wheels", wheels, parts=asked) == 0
    assert packed(tmp_path)["part.txt"] == "wheel False\n"


def test_a_wheel_that_is_none_leaves_out_what_needs_it(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels/nothing_in_here-1.0-py3-none-any.whl").write_bytes(b"")
    asked = [part(gpu, "good", ""), part(gpu, "unfit", "", needs=("nothing_in_here",))]
    assert call(gpu, monkeypatch, tmp_path, "--wheels", str(tmp_path / "wheels"), parts=asked) == 0
    assert "cannot be added" in capsys.readouterr().err


def test_without_a_gpu_it_says_so(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu.torch, "cuda", SimpleNamespace(is_available=lambda: False))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path)])
    assert gpu.main() == 2
    assert "torch finds no CUDA device" in capsys.readouterr().err
