"""How far a measuring process is, told from its lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Advance:
    """Counts turns, those that are done and those that are to come.

    Args:
        degrees: of tensor parallelism that are measured, one after the other. Of those that have not begun it
            is not known how many turns they need: as many as the one that has.
    """

    def __init__(self, degrees: int) -> None:
        self._left = degrees
        self.what = "starting"
        self.done = 0
        self.total = 0
        """0: not known yet."""

    def take(self, line: Mapping[str, Any]) -> None:
        """One line."""
        if line["kind"] == "model":
            self.what = f"{line['name']}, tensor {line['tensor']}"
            self.total = self.done + self._left * line["left"]
            self._left -= 1
        elif line["kind"] == "again" and line["left"]:
            self.what += ": what was unsteady, again"
            self.total += line["left"]
        elif line["kind"] == "turn":
            self.done += 1
