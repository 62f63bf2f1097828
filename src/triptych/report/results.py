"""What a table shows, as JSON beside it or in its place."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triptych.spec.base import SpecError

if TYPE_CHECKING:
    from rich.console import Console

STANDARD_OUTPUT = "-"


def console_beside(target: str | None) -> Console:
    """Where tables go: to standard output, unless the JSON goes there, which is then all that does."""
    from rich.console import Console

    return Console(quiet=target == STANDARD_OUTPUT)


def check_json_target(target: str | None) -> None:
    """Sees to it, before any work is done, that a file can be written there.

    Raises:
        SpecError: it lies in no folder, or is one.
    """
    if target is None or target == STANDARD_OUTPUT:
        return
    if not Path(target).parent.is_dir() or Path(target).is_dir():
        raise SpecError(
            "--json", f"{target}: no file can be there; name a file in a folder that exists, or -"
        )


def write_json(data: Any, target: str | None) -> None:
    """Writes what is asked for: to a file, to standard output for -, or nothing for None.

    Raises:
        SpecError: the file cannot be written.
    """
    if target is None:
        return
    text = json.dumps(data, indent=1, allow_nan=False) + "\n"
    if target == STANDARD_OUTPUT:
        sys.stdout.write(text)
        return
    try:
        Path(target).write_text(text, encoding="utf-8")
    except OSError as error:
        raise SpecError("--json", f"{target}: cannot be written: {error.strerror}") from None
