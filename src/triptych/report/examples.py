"""The example files that come with the package: a table of them, and copies to change."""

from __future__ import annotations

import re
from pathlib import Path

from rich.console import Console
from rich.table import Table

from triptych.spec.base import SpecError

_PACKAGE = Path(__file__).resolve().parents[1]


def examples_folder() -> Path:
    """Where they are: in the package, or, where the sources are run as they stand, beside those."""
    packaged = _PACKAGE / "examples"
    return packaged if packaged.is_dir() else _PACKAGE.parents[1] / "examples"


def example_files() -> list[Path]:
    """All of them, relative to their folder, in order."""
    folder = examples_folder()
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in files if "__pycache__" not in path.parts)


def examples_as_dicts() -> list[dict[str, str]]:
    """What `print_examples` lists, for JSON."""
    folder = examples_folder()
    return [{"file": str(file), "about": _about(folder / file)} for file in example_files()]


def print_examples(console: Console | None = None) -> None:
    """Lists the files, each with the first sentence that it says of itself."""
    console = console or Console()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for example in examples_as_dicts():
        table.add_row(example["file"], example["about"])
    console.print(table, highlight=False)
    console.print("\ntriptych examples copy [FOLDER] copies them to change.", highlight=False, markup=False)


def copy_examples(folder: Path, console: Console | None = None) -> None:
    """Copies the files to a folder; those that are there already, as they are, stay.

    Raises:
        SpecError: the folder is a file, a file is there that differs, or nothing can be written. In the first
            two cases nothing is.
    """
    console = console or Console()
    if folder.exists() and not folder.is_dir():
        raise SpecError("", "is a file; name a folder: triptych examples copy FOLDER", file=folder)
    files = {folder / file: (examples_folder() / file).read_bytes() for file in example_files()}
    try:
        for path, content in files.items():
            if path.exists() and (not path.is_file() or path.read_bytes() != content):
                fix = "name another folder: triptych examples copy FOLDER"
                raise SpecError("", f"is there already, and differs from the example; {fix}", file=path)
        for path, content in files.items():
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
    except OSError as error:
        problem = f"cannot be written: {error.strerror}; name another folder"
        raise SpecError("", problem, file=error.filename or folder) from None
    console.print(f"{len(files)} files in {folder}", highlight=False, markup=False, soft_wrap=True)


def _about(path: Path) -> str:
    """The first sentence of the comment or docstring that a file begins with; nothing where there is none."""
    text = path.read_text(encoding="utf-8")
    found = re.match(r'(?:# |""")(.*?(?:[.:](?=\s)|\.$|$(?!\n# )))', text, re.DOTALL | re.MULTILINE)
    return " ".join(found[1].replace("\n# ", " ").split()).rstrip(".:") if found else ""
