"""Ctrl-C while a run is under way."""

from __future__ import annotations

import asyncio
from types import FrameType


class Interrupts:
    """What a signal does: the first ends a run, which keeps what it has; the second ends all.

    The second is not raised in the midst of an event loop, which could then not close its connections, but by
    `check` when that has ended: the first has told it to. A third is raised wherever it comes.
    """

    def __init__(self) -> None:
        self.count = 0

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal.

        Raises:
            KeyboardInterrupt: as said above.
        """
        self.count += 1
        if self.count > 2 or (self.count == 2 and not _in_loop()):
            raise KeyboardInterrupt

    def check(self) -> None:
        """Comes when the loop has ended.

        Raises:
            KeyboardInterrupt: there was a second signal.
        """
        if self.count > 1:
            raise KeyboardInterrupt


def _in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
