"""From the lines of the measuring process to a profile, and to how well its sum predicts whole passes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from triptych import catalog
from triptych.profiler.job import Job, case_from_plain, key
from triptych.profiler.predict import Sum
from triptych.profiler.rows import Series, rows_of, series_of
from triptych.profiler.sizes import AnyCase, HostCase
from triptych.profiler.statistics import Row, speeds
from triptych.profiles import COLUMNS, Profile, ProfileInfo, profile_of
from triptych.profiles.shapes import shape_of

Lines = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Check:
    """How the sum of operators compares with whole passes that were not learned from."""

    what: str
    tensor: int
    passes: int
    median_error: float
    """Of the absolute relative errors."""
    bias: float
    """Mean of the signed ones."""
    worst: float


def profile(name: str, job: Job, lines: Lines) -> Profile:
    """The profile of all that was measured.

    Args:
        name: what it is called.
        job: what was asked for.
        lines: what the measuring process said.
    """
    rows: list[Row] = []
    common = {"precision": job.precision, "kv_precision": job.precision}
    for measured in splits(job, lines):
        about = {"model": measured.model["name"], "tensor": measured.tensor, **common}
        for case, series in measured.series:
            if isinstance(case, HostCase) or not case.check or measured.whole:
                found = rows_of(case, series, measured.model["largest_graph"])
                rows += [{**about, **row} for row in found]
    for line in _of(lines, "rows"):
        rows += [{**common, **row} for row in line["rows"]]
    names = [column for column in COLUMNS if any(column in row for row in rows)]
    columns = {column: [row.get(column, COLUMNS[column].default) for row in rows] for column in names}
    return profile_of(_info(name, job, lines), columns)


@dataclass(frozen=True)
class Split:
    """What was measured under one degree of tensor parallelism."""

    tensor: int
    model: dict[str, Any]
    """What the measuring process said of it."""
    series: list[tuple[AnyCase, Series]]
    finished: bool
    """Whether every batch had all its turns."""

    @property
    def whole(self) -> bool:
        """Whether all layers were built."""
        return bool(self.model["layers"] == self.model["all_layers"])


def splits(job: Job, lines: Lines) -> list[Split]:
    """What was measured, by degree."""
    found = []
    for tensor, model in sorted({line["tensor"]: line for line in _of(lines, "model")}.items()):
        turns = [line for line in _of(lines, "turn") if line["tensor"] == tensor]
        series = series_of(turns, job.repeats)
        cases = {name: case_from_plain(plain) for name, plain in model["cases"].items()}
        had = Counter(turn["name"] for turn in turns)
        finished = all(had[name] >= job.rounds for name in cases)
        known = [(case, series[name]) for name, case in cases.items() if name in series]
        found.append(Split(tensor, model, known, finished))
    return found


def _info(name: str, job: Job, lines: Lines) -> ProfileInfo:
    about = _of(lines, "about")[-1]
    shape = catalog.model(job.model)
    return ProfileInfo(
        name=name,
        device=about["device"],
        source="`triptych profile`: operators within forward passes of triptych's engine; Apache-2.0",
        measured_at=time.strftime("%Y-%m-%d"),
        versions={**about["versions"], **_kernels(splits(job, lines))},
        clocks={**about["clocks"], "waited": f"{_waited(splits(job, lines)):.2f}"},
        chunks="apart" if all(split.model["apart"] for split in splits(job, lines)) else "together",
        shapes={shape.name: shape_of(shape)},
        notes=" ".join(_notes(job, lines)),
    )


def _notes(job: Job, lines: Lines) -> list[str]:
    notes = [
        "Operators are cut out of whole passes, with all glue between them: they add up to the pass.",
        "`iteration`: the host's time beside forward pass and sampler; `sampler`: greedy.",
    ]
    measured = splits(job, lines)
    kernels = {split.model["kernels"] for split in measured if split.model["kernels"]}
    notes += [f"Kernels: {name}." for name in sorted(kernels)]
    notes += [f"Attention: {name}." for name in sorted({split.model["attention"] for split in measured})]
    graphs = max((split.model["largest_graph"] for split in measured), default=0)
    if graphs:
        notes.append(
            f"Decodes of up to {graphs} sequences run as CUDA graphs; operators at as few tokens are theirs."
        )
    for split in measured:
        degree, model = f"Tensor {split.tensor}:", split.model
        if not split.whole:
            notes.append(f"{degree} {model['layers']} of {model['all_layers']} layers were built.")
        if not split.finished:
            notes.append(f"{degree} not all was measured in the time given.")
    turns = [turn for turn in _of(lines, "turn") if not turn["name"].startswith("host") and turn["whole"]]
    if turns:
        names = [key(turn["tensor"], turn["name"]) for turn in turns]
        low, high = np.percentile(speeds(names, [min(turn["whole"]) for turn in turns]), [5, 95])
        notes.append(
            f"Threads waited for a processor {_waited(measured):.1%} of the time (median); "
            f"the machine's own speed drifted by {high / low - 1:.0%} (p5 to p95), which was levelled out."
        )
    return notes


def _kernels(measured: Sequence[Split]) -> dict[str, str]:
    """What computed, as far as it was chosen by a trial."""
    chosen = sorted({split.model["kernels"] for split in measured if split.model["kernels"]})
    return {"kernels": "; ".join(chosen)} if chosen else {}


def _waited(measured: Sequence[Split]) -> float:
    """Share of the time of a usual batch that threads waited for processors."""
    waited = [series.waited for split in measured for _, series in split.series]
    return float(np.median(waited)) if waited else 0.0


def checks(job: Job, lines: Lines) -> list[Check]:
    """The sum of operators against the passes that were measured whole."""
    found = []
    for split in splits(job, lines):
        learned = [(case, series) for case, series in split.series if not case.check]
        graph = split.model["largest_graph"]
        rows = [row for case, series in learned for row in rows_of(case, series, graph)]
        if not {"prefill attention", "decode attention"} <= {row["operator"] for row in rows}:
            continue
        total = Sum(rows, split.model["times"])
        errors: dict[str, list[float]] = {}
        for case, series in split.series:
            if case.check and not isinstance(case, HostCase):
                what, predicted = total.of(case)
                measured = float(series.whole.mean())
                errors.setdefault(what, []).append((predicted - measured) / measured)
        for what, given in errors.items():
            size = np.abs(given)
            median, worst = float(np.median(size)), float(size.max())
            found.append(Check(what, split.tensor, len(given), median, float(np.mean(given)), worst))
    return found


def _of(lines: Lines, kind: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["kind"] == kind]
