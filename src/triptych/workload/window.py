"""The part of a trace that is wanted, and when enough of it has been read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class Window:
    """Requests from `start` to `stop`, in seconds from the first of the trace, and at most `limit` of them.

    A reader tells it the times that it has read, in their order, and may stop when it is `full`: what it has
    then read holds all that is wanted. Which requests those are is still to be picked.
    """

    start: float = 0.0
    stop: float = np.inf
    limit: int | None = None
    _first: float | None = None
    _taken: int = 0
    full: bool = False

    def see(self, seconds: Sequence[float] | NDArray[np.float64]) -> None:
        """Takes note of the times that follow those that it has seen.

        It is not full while nothing lies in it, so that an error can say how long the trace is.
        """
        times = np.asarray(seconds, dtype=np.float64)
        if not len(times):
            return
        if self._first is None:
            self._first = float(times[0])
        times = times - self._first
        self._taken += int(((times >= self.start) & (times < self.stop)).sum())
        past = bool(times[-1] >= self.stop)
        self.full = self._taken > 0 and (past or (self.limit is not None and self._taken >= self.limit))
