"""Who looks on while a validation goes on, and may end it."""

from __future__ import annotations

from collections.abc import Callable

from triptych.record import Run
from triptych.spec.base import SpecError
from triptych.validation.server import Interrupted, Served

Progress = Callable[[str, int, int, float], bool]
"""Called with (what is done now, requests that have ended, requests in all or 0, seconds since that began);
False ends the validation."""
GoOn = Callable[[int, int, float], bool]
"""The same, within one step."""


class Watch:
    """Passes on how far things are, and remembers whether to stop.

    Args:
        progress: of the caller; None: nobody looks on.
    """

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._stopped = False

    def step(self, what: str) -> GoOn:
        """To be called while a step is under way."""

        def go_on(ended: int, total: int, seconds: float) -> bool:
            if self._progress is not None and not self._progress(what, ended, total, seconds):
                self._stopped = True
            return not self._stopped

        return go_on

    def check(self) -> None:
        """After a step that ends early when it is told to.

        Raises:
            Interrupted: it was.
        """
        if self._stopped:
            raise Interrupted

    def bench(self, server: Served, what: str, run: Callable[[GoOn], Run]) -> Run:
        """A bench of a server, which ends when the server does.

        Raises:
            SpecError: the server has died; or as of `bench`.
            Interrupted: the caller said so.
        """
        watched = self.step(what)
        try:
            measured = run(lambda *so_far: watched(*so_far) and server.alive)
        except SpecError:
            self.check()
            server.check()
            raise
        self.check()
        server.check()
        return measured
