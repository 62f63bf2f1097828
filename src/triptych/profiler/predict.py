"""Whole passes as the sum of their operators, from the rows of a profile: to check it, not to simulate.

Between the sizes that were measured, time is taken to be a straight line in each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from triptych.profiler.sizes import Case, ImageCase
from triptych.profiler.statistics import Row

Floats = NDArray[np.float64]
_VISION = ("vision", "merger", "patch embedding")
_OWN_IMAGE = "vision full attention"
_ASIDE = ("forward", "vision forward", "vision tower", "iteration", "scheduling", "input building", "sampler")


class Sum:
    """Predicts passes.

    Args:
        rows: of one model under one parallelism.
        times: how often each operator runs in a pass.
    """

    def __init__(self, rows: Sequence[Row], times: Mapping[str, float]) -> None:
        self._times = times
        by_name: dict[str, list[Row]] = {}
        for row in rows:
            if row["operator"] not in _ASIDE:
                by_name.setdefault(row["operator"], []).append(row)
        self._prefill = Grid(by_name.pop("prefill attention", []), "units", "history")
        decode = [row for row in by_name.pop("decode attention", []) if not row.get("longest_kv")]
        self._decode = Grid(decode, "decodes", "decode_kv")
        if "experts" in by_name:
            by_name["experts"] = _as_routed(by_name["experts"])
        self._lines = {name: _averaged(found) for name, found in by_name.items()}

    def of(self, case: Case | ImageCase) -> tuple[str, float]:
        """The kind of pass, as profiles name it, and its seconds."""
        if isinstance(case, ImageCase):
            return "vision forward", self._images(case)
        return "forward", self._text(case)

    def _text(self, case: Case) -> float:
        total = 0.0
        for name in self._lines:
            if not name.startswith(_VISION):
                total += self._once(name, case.sampled if name == "head" else case.tokens)
        layers = self._times["prefill attention"]
        for tokens, history in case.chunks:
            total += layers * self._prefill.at(tokens, history)
        if case.decodes:
            mean = sum(case.decodes) / len(case.decodes)
            total += layers * self._decode.at(len(case.decodes), mean)
        return total

    def _images(self, case: ImageCase) -> float:
        """All patches together, but each attends to its own image."""
        total = 0.0
        for name in self._lines:
            if name == _OWN_IMAGE:
                total += sum(self._once(name, rows * columns) for rows, columns in case.grids)
            elif name.startswith(_VISION):
                total += self._once(name, case.patches)
        return total

    def _once(self, name: str, size: float) -> float:
        return self._times[name.split("+")[0]] * _line(*self._lines[name], size)


class Grid:
    """Measurements over two sizes, where every combination that fits was measured.

    Args:
        rows: of one operator.
        first: column of one size.
        second: and of the other.
    """

    def __init__(self, rows: Sequence[Row], first: str, second: str) -> None:
        self._columns: dict[float, tuple[Floats, Floats]] = {}
        grouped: dict[float, list[Row]] = {}
        for row in rows:
            grouped.setdefault(float(row.get(first, 0)), []).append(row)
        for size in sorted(grouped):
            self._columns[size] = _averaged(grouped[size], second)

    def at(self, first: float, second: float) -> float:
        """Seconds at two sizes; beyond the last that were measured the last line goes on."""
        sizes = np.array(list(self._columns))
        seconds = np.array([_line(*column, second) for column in self._columns.values()])
        return _line(sizes, seconds, first)


def _as_routed(rows: Sequence[Row]) -> list[Row]:
    """Of each number of tokens the row with most experts touched: where random tokens go by themselves."""
    most: dict[float, Row] = {}
    for row in rows:
        known = most.get(row["units"])
        if known is None or row["touched"] > known["touched"]:
            most[row["units"]] = row
    return list(most.values())


def _averaged(rows: Sequence[Mapping[str, float]], size: str = "units") -> tuple[Floats, Floats]:
    """Sizes, rising, and the mean seconds at each."""
    given = np.array([float(row.get(size, 0)) for row in rows])
    seconds = np.array([row["seconds"] for row in rows])
    sizes, place = np.unique(given, return_inverse=True)
    return sizes, np.bincount(place, seconds) / np.bincount(place)


def _line(sizes: Floats, seconds: Floats, size: float) -> float:
    if len(sizes) == 1:
        return float(seconds[0])
    place = int(np.clip(np.searchsorted(sizes, size) - 1, 0, len(sizes) - 2))
    share = (size - sizes[place]) / (sizes[place + 1] - sizes[place])
    return float(max(0.0, seconds[place] + max(share, 0.0) * (seconds[place + 1] - seconds[place])))
