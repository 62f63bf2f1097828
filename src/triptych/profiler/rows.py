"""From turns to the rows of a profile: sizes by the batch, statistics over its passes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.profiler.sizes import AnyCase, Case, HostCase, ImageCase
from triptych.profiler.statistics import QUIET, STEADY, Row, row, speeds, spread, undisturbed

Line = Mapping[str, Any]
"""Of a turn, as the measuring process said it."""


class Series:
    """All passes over one batch.

    Args:
        turns: its lines, with `passes`, `whole` and `waited` (`turns.Turn`).
        factors: how slow the machine was in each, shape (turns,).
        repeats: passes that are wanted.
    """

    def __init__(self, turns: Sequence[Line], factors: Sequence[float], repeats: int) -> None:
        # Not all that threads wait is lost, and which of it is nobody can tell: nothing is taken out.
        passes = [
            (taken, whole / factor, waited, factor)
            for turn, factor in zip(turns, factors, strict=True)
            for taken, whole, waited in zip(turn["passes"], turn["whole"], turn["waited"], strict=True)
        ]
        waited = np.array([each[2] for each in passes])
        quiet = np.flatnonzero(waited <= QUIET)
        if len(quiet) < min(repeats, len(passes)) / 2:
            quiet = np.sort(np.argsort(waited, kind="stable")[:repeats])
        whole = np.array([passes[index][1] for index in quiet])
        counted = quiet[undisturbed(whole)]
        self._passes = [(passes[index][0], passes[index][3]) for index in counted]
        self.whole: NDArray[np.float64] = whole[undisturbed(whole)]
        """Seconds of each pass that counts, as at the machine's mean speed."""
        self.waited = float(np.median(waited[counted]))
        """Share of their time."""
        self.about: Mapping[str, Any] = next((turn["about"] for turn in turns if turn.get("about")), {})

    @property
    def steady(self) -> bool:
        """Whether the passes are alike and had the processors to themselves."""
        return spread(self.whole) <= STEADY and self.waited <= QUIET

    def operators(self) -> dict[str, NDArray[np.float64]]:
        """Seconds of one run of each, in each pass that counts."""
        names = dict.fromkeys(name for taken, _ in self._passes for name in taken)
        return {
            name: np.array([taken.get(name, 0.0) / factor for taken, factor in self._passes])
            for name in names
        }


def series_of(turns: Sequence[Line], repeats: int) -> dict[str, Series]:
    """The passes over each batch, by its name.

    Args:
        turns: in the order of time.
        repeats: passes that are wanted of each.
    """
    forward = [index for index, turn in enumerate(turns) if not turn["name"].startswith("host")]
    known = speeds(
        [turns[index]["name"] for index in forward], [_quickest(turns[index]) for index in forward]
    )
    # The engine's own turns are short: the machine's speed in them is that in the passes around them.
    factors = np.interp(np.arange(len(turns)), forward, known) if forward else np.ones(len(turns))
    places: dict[str, list[int]] = {}
    for index, turn in enumerate(turns):
        if turn["passes"]:
            places.setdefault(turn["name"], []).append(index)
    return {
        name: Series([turns[index] for index in found], factors[found].tolist(), repeats)
        for name, found in places.items()
    }


def _quickest(turn: Line) -> float:
    """Seconds of a turn's quickest pass."""
    return min(map(float, turn["whole"]))


def rows_of(case: AnyCase, series: Series, largest_graph: int = 0) -> Iterator[Row]:
    """A row for each operator that a batch tells of, or one for a batch that checks.

    Args:
        case: the batch.
        series: its passes.
        largest_graph: tokens up to which batches of decodes are launched as graphs. At so many tokens it is
            they that tell of all operators but a prompt's attention: an operator has one time at one size.
    """
    if isinstance(case, HostCase):
        sampled = max(1, case.decodes)
        for name, seconds in series.operators().items():
            own = {"units": sampled} if name == "sampler" else {"units": case.prompt, "decodes": sampled}
            yield row(name, seconds, own)
    elif case.check:
        name = "vision forward" if isinstance(case, ImageCase) else "forward"
        yield row(name, series.whole, whole_sizes(case))
    elif isinstance(case, ImageCase):
        yield row("vision tower", series.whole, {"units": case.patches})
        for name, seconds in series.operators().items():
            yield row(name, seconds, {"units": case.patches})
    else:
        kernels = series.about.get("kernels", {})
        for name, seconds in series.operators().items():
            if case.chunks and case.tokens <= largest_graph and name != "prefill attention":
                continue
            traced = {"kernel_seconds": kernels[name]} if name in kernels else {}
            yield row(name, seconds, text_sizes(case, name, series.about.get("touched", 0)) | traced)


def text_sizes(case: Case, operator: str, touched: int) -> dict[str, int]:
    """The columns that say how large one run of an operator was."""
    if not operator.endswith(" attention"):
        units = case.sampled if operator == "head" else case.tokens
        return {"units": units} | ({"touched": touched} if operator == "experts" else {})
    if case.chunks:
        ((tokens, history),) = case.chunks
        return {"units": tokens, "history": history}
    longest = max(case.decodes)
    unequal = {"longest_kv": longest} if longest > min(case.decodes) else {}
    mean = round(sum(case.decodes) / len(case.decodes))
    return {"decodes": len(case.decodes), "decode_kv": mean, **unequal}


def whole_sizes(case: Case | ImageCase) -> dict[str, int]:
    """Of a batch that checks."""
    if isinstance(case, ImageCase):
        return {"units": case.patches, "decodes": len(case.grids)}
    return {
        "units": sum(tokens for tokens, _ in case.chunks),
        "history": sum(history for _, history in case.chunks),
        "decodes": len(case.decodes),
        "decode_kv": round(sum(case.decodes) / max(1, len(case.decodes))),
        "longest_kv": max(case.decodes, default=0),
    }
