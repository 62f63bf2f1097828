"""What a person at a terminal sees while a validation works."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pty = pytest.importorskip("pty")

SCRIPT = """
from rich.console import Console
from triptych.validation.console import watched

console = Console()
with watched() as progress:
    console.print("said before anything is waited for")
    progress("starting the server", 1, 3, 0.5)
console.print("said when all is there")
"""


def test_a_bar_is_drawn_from_the_first_progress_on_and_gone_at_the_end() -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:  # how Linux ends a terminal that has no other side
        pass
    assert process.wait(60) == 0
    before, _, rest = shown.decode().partition("said before anything is waited for")
    assert "\u2501" not in before
    during, _, after = rest.partition("said when all is there")
    assert "starting the server" in during
    assert "\u2501" not in after
    assert "\x1b[2K" in during, "the bar is erased"
