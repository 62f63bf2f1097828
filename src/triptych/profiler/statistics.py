"""From the pieces of repeated passes to rows of a profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

QUIET = 0.05
"""Share of the time that threads may wait for a processor; they share it when they wake each other."""
_NEAR = 4
"""Turns before and after one, from which the machine's speed in it is told."""
_FEWEST = 3
"""Turns of each batch, on average, from which its own time can be told from the machine's speed."""
STEADY = 0.2
"""Spread of the runs, (p90 - p10) / median, up to which a measurement is taken to be steady."""
_DISTURBED = 3.0
"""Robust standard deviations above the median from which a pass was disturbed by something else."""
_LEAST = 0.03
"""Of the median, which a pass may always be longer."""
_KEPT = 0.75
"""Of the passes, that are kept at the least."""

Row = dict[str, Any]
"""Columns of a profile by name; those left out have their default."""


class Piece(NamedTuple):
    """The time between two marks of a pass."""

    operator: str
    seconds: float


def undisturbed(seconds: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which passes count, shape (passes,): those far longer than the others met something else at work.

    What is far off is told by the median absolute deviation; three quarters are kept in any case.
    """
    middle = np.median(seconds)
    sigma = 1.4826 * np.median(np.abs(seconds - middle))
    limit = middle + max(_DISTURBED * sigma, _LEAST * middle)
    return np.asarray(seconds <= max(limit, np.quantile(seconds, _KEPT, method="higher")))


def spread(seconds: NDArray[np.float64]) -> float:
    """(p90 - p10) / median."""
    low, middle, high = np.percentile(seconds, [10, 50, 90])
    return float((high - low) / middle) if middle else 0.0


def row(operator: str, seconds: NDArray[np.float64], sizes: Mapping[str, Any]) -> Row:
    """A row of a profile.

    Args:
        operator: its name.
        seconds: of one run in each pass that counts, shape (passes,).
        sizes: other columns.
    """
    p10, median, p90 = (float(value) for value in np.percentile(seconds, [10, 50, 90]))
    return {
        "operator": operator,
        **sizes,
        "seconds": float(seconds.mean()),
        "deviation": float(seconds.std(ddof=1)) if len(seconds) > 1 else float("nan"),
        "median": median,
        "p10": p10,
        "p90": p90,
        "repeats": len(seconds),
        "unsteady": spread(seconds) > STEADY,
    }


def speeds(names: Sequence[str], seconds: Sequence[float]) -> NDArray[np.float64]:
    """How slow the machine was in each turn, shape (turns,): 1 on average.

    Processors change their clock, and neighbours on the same hardware come and go, for seconds or minutes at
    a time. All batches are measured many times over, in changing order; what is longer in one turn than in
    others of its batch, and is so in the turns around it too, is the machine.

    Args:
        names: of the batch of each turn, in the order of time.
        seconds: of each turn.
    """
    distinct, place = np.unique(np.asarray(names), return_inverse=True)
    given = np.log(np.asarray(seconds, dtype=np.float64))
    slow = np.zeros(len(given))
    if not len(given) or len(given) < _FEWEST * len(distinct):
        return np.ones(len(given))
    for _ in range(_SWEEPS):
        level = given - slow
        own = np.array([np.median(level[place == index]) for index in range(len(distinct))])
        rest = given - own[place]
        slow = np.array([np.median(rest[max(0, i - _NEAR) : i + _NEAR + 1]) for i in range(len(rest))])
    factors = np.exp(slow)
    return np.asarray(factors / factors.mean())


_SWEEPS = 6
"""Until the two halves of the explanation agree."""
