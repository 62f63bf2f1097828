"""What is finished of a profile that is being measured, line by line: an interruption loses nothing of it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from triptych.catalog.machine import processor
from triptych.profiler.job import Job, key
from triptych.profiles.machine import libraries


class Journal:
    """A file of what the measuring process said.

    Args:
        path: of the file; what it holds of another job, or was measured with other libraries, is dropped.
        job: whose it is.
    """

    def __init__(self, path: Path, job: Job) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = []
        on = {"processor": processor(), **libraries()}
        self._head = {"kind": "job", **json.loads(json.dumps(job.work)), "on": on}
        if path.is_file():
            self._read()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            for line in [self._head, *self.lines]:
                file.write(json.dumps(line) + "\n")

    def add(self, line: dict[str, Any]) -> None:
        """Keeps a line."""
        self.lines.append(line)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    @property
    def done(self) -> dict[str, int]:
        """Turns that each batch has had."""
        names = [key(line["tensor"], line["name"]) for line in self.of("turn")]
        return dict(Counter(names + [line["name"] for line in self.of("rows")]))

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The lines of a kind."""
        return [line for line in self.lines if line["kind"] == kind]

    def _read(self) -> None:
        lines = []
        for text in self.path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:  # the last line of a run that was cut off
                break
        if lines and lines[0] == self._head:
            self.lines = lines[1:]
