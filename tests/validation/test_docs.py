"""What docs/validation.md says is so."""

from __future__ import annotations

import re
from pathlib import Path

from triptych.validation import files
from triptych.validation.files import COMPARISON_COLUMNS
from triptych.validation.table import LARGE

TEXT = (Path(__file__).parents[2] / "docs/validation.md").read_text(encoding="utf-8")


def test_every_column_is_described() -> None:
    for name, (kind, what) in COMPARISON_COLUMNS.items():
        assert f"| `{name}` | {kind} | {what} |" in TEXT


def test_every_file_is_described() -> None:
    for name in (files.MAIN, files.LOG, files.REQUESTS):
        assert f"`{name}`" in TEXT
    for name in (files.SERVER, files.CAPACITY, f"{files.MEASURED}N", f"{files.PREDICTED}N"):
        assert f"`{name}/`" in TEXT


def test_the_mark_is_where_it_is_said_to_be() -> None:
    assert f"Errors above {LARGE * 100:g} %" in TEXT


def test_the_python_for_any_two_records_runs() -> None:
    (block,) = (
        text for text in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if "import numpy" in text
    )
    exec(compile(block, "validation.md", "exec"), {})
