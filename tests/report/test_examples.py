"""The example files: listed, copied, and shipped with the package."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from rich.console import Console

from triptych.report.examples import copy_examples, example_files, examples_folder, print_examples
from triptych.spec.base import SpecError

ROOT = Path(__file__).resolve().parents[2]


def console() -> Console:
    return Console(file=io.StringIO(), width=80)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_they_are_those_of_the_repository() -> None:
    assert examples_folder() == ROOT / "examples"
    assert {"deployments/epd.yaml", "workloads/chat.yaml", "models/small-vl.json"} <= set(
        map(Path.as_posix, example_files())
    )


def test_the_list_says_what_each_is() -> None:
    out = console()
    print_examples(out)
    lines = [line.split(maxsplit=1) for line in printed(out).splitlines()]
    assert ["deployments/mixed.yaml", "The five devices of epd.yaml, unsplit"] in [
        [name, *map(str.rstrip, about)] for name, *about in filter(None, lines)
    ]
    for file in example_files():
        assert str(file) in printed(out)


class TestCopies:
    def test_are_the_same_files(self, tmp_path: Path) -> None:
        out = console()
        copy_examples(tmp_path / "a/b", out)
        for file in example_files():
            assert (tmp_path / "a/b" / file).read_bytes() == (examples_folder() / file).read_bytes()
        assert printed(out) == f"{len(example_files())} files in {tmp_path / 'a/b'}\n"

    def test_may_be_made_again(self, tmp_path: Path) -> None:
        copy_examples(tmp_path, console())
        (tmp_path / "workloads/chat.yaml").unlink()
        copy_examples(tmp_path, console())
        assert (tmp_path / "workloads/chat.yaml").exists()

    def test_overwrite_nothing_and_are_then_not_begun(self, tmp_path: Path) -> None:
        mine = tmp_path / "workloads/chat.yaml"
        mine.parent.mkdir()
        mine.write_text("requests: 1\n")
        with pytest.raises(SpecError, match=r"chat\.yaml: is there already, and differs.* name another"):
            copy_examples(tmp_path, console())
        assert mine.read_text() == "requests: 1\n"
        assert not (tmp_path / "deployments").exists()

    def test_need_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(SpecError, match="file: is a file; name a folder: triptych examples copy FOLDER"):
            copy_examples(tmp_path / "file", console())


def test_a_wheel_has_them(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.iterdir()
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("triptych/examples/")}
    assert shipped == {f"triptych/examples/{file.as_posix()}" for file in example_files()}
