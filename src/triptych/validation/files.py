"""The folder of a validation.

validation.json     what kind of folder this is; capacity, and for each level its folder and rows
deployment.yaml, workload.yaml      what is predicted with, and what was asked for
server/             the server's own run record, with its batches: all repetitions, warm-ups and probes
server.log          what it said
capacity/           run record of the closed loop, with --load
calibration.yaml    to that loop, with --calibrate
and for a level, here or in load-SHARE/:
requests.parquet    the requests as they were planned
measured-N/         run record of repetition N
replay-N.parquet    its requests as the server got them
predicted-N/        run record of what is predicted for them
comparison.json     predicted, measured, error
comparison.parquet  a row a request and repetition
comparison.pdf, comparison.png
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from triptych.bench.files import write_bench
from triptych.record import Run, summarise, write_run
from triptych.record.tables import write_table
from triptych.report.compare import METRICS, Row, request_errors
from triptych.spec.base import SpecError
from triptych.spec.deployment import Deployment
from triptych.spec.workload import WorkloadSpec
from triptych.validation.result import Level, Validation
from triptych.version import __version__

FORMAT = "triptych validation"
MAIN = "validation.json"
SERVER, LOG, CAPACITY, CALIBRATION = "server", "server.log", "capacity", "calibration.yaml"
REQUESTS, MEASURED, REPLAY, PREDICTED, COMPARISON = (
    "requests.parquet", "measured-", "replay-", "predicted-", "comparison",
)  # fmt: skip
_LOAD = "load-"
_OURS = (
    SERVER,
    CAPACITY,
    CALIBRATION,
    REQUESTS,
    *(f"{name}*" for name in (MEASURED, REPLAY, PREDICTED, COMPARISON, _LOAD)),
)

COMPARISON_COLUMNS: dict[str, tuple[str, str]] = {
    "repetition": ("int32", "from 1"),
    "id": ("int64", "position in the workload"),
    "sent": ("float64", "when the client sent it"),
    "prompt_tokens": ("int64", "as the server counts them"),
    "generated_tokens": ("int64", "as the server counts them"),
    "images": ("int32", "number of images"),
    **{
        f"{side}_{metric}": ("float64", f"{metric.upper()} as {side}")
        for metric in METRICS
        for side in ("predicted", "measured")
    },
}
"""`comparison.parquet`; times in seconds, NaN where there is none."""


def level_folder(out: Path, load: float | None) -> Path:
    """Where the records of a level are."""
    return out if load is None else out / f"{_LOAD}{load:g}"


def begin(out: Path) -> None:
    """Makes the folder and marks it.

    Raises:
        SpecError: there is something at `out` that is no validation, or its place cannot be written to.
    """
    try:
        if out.is_dir() and any(out.iterdir()) and not (out / MAIN).is_file():
            problem = "holds something that is no validation and will not be overwritten; name another folder"
            raise SpecError("", problem, file=out)
        out.mkdir(parents=True, exist_ok=True)
        if not (out / MAIN).exists():
            _write_json(out / MAIN, {"format": FORMAT, "complete": False})
    except OSError as error:
        raise SpecError("", f"cannot be written: {error.strerror}; name another place", file=out) from None


def clear(out: Path) -> None:
    """Removes what an earlier validation left, once the next one has something to put there."""
    _write_json(out / MAIN, {"format": FORMAT, "complete": False})
    for pattern in _OURS:
        for path in out.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def write_measured(run: Run, folder: Path) -> None:
    """The run folder of a bench."""
    write_bench(run, folder, summarise(run))


def write_predicted(run: Run, folder: Path) -> None:
    """The run folder of a prediction."""
    write_run(run, folder)


def write_declared(deployment: Deployment, workload: WorkloadSpec, out: Path) -> None:
    """What is predicted with, and what was asked for: one that is cut short can be calibrated with it."""
    (out / "deployment.yaml").write_text(deployment.to_yaml(), encoding="utf-8")
    (out / "workload.yaml").write_text(workload.to_yaml(), encoding="utf-8")


def write_validation(validation: Validation, out: Path) -> None:
    """All that is not yet there, but for the figure."""
    for level in validation.levels:
        _write_json(level.folder / f"{COMPARISON}.json", _described(level, out))
        write_table(_requests(level), level.folder / f"{COMPARISON}.parquet", COMPARISON_COLUMNS)
    _write_json(out / MAIN, as_dict(validation, out))


def as_dict(validation: Validation, out: Path) -> dict[str, Any]:
    """What `validation.json` holds, as plain data."""
    return {
        "format": FORMAT,
        "complete": True,
        "version": __version__,
        "capacity": validation.capacity,
        "concurrency": validation.concurrency,
        "levels": [_described(level, out) for level in validation.levels],
    }


def _described(level: Level, out: Path) -> dict[str, Any]:
    arrival = [summarise(run).throughput.arrival_rate for run in level.measured]
    return {
        "load": level.load,
        "folder": str(level.folder.relative_to(out)),
        "repetitions": len(level.measured),
        "requests": len(level.measured[0]),
        "arrival_rate": arrival[0],
        "worst": level.worst,
        "rows": [_row(row) for row in level.rows],
        "median_request_error": {metric: _median_error(level, metric) for metric in METRICS},
        "by_repetition": [
            {
                f"{row.metric}_{row.statistic}": comparison.statistic(row.metric, row.statistic)
                for row in level.rows
            }
            for comparison in level.comparisons
        ],
        "notes": list(level.notes),
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "metric": row.metric,
        "statistic": row.statistic,
        "predicted": row.predicted,
        "measured": row.measured,
        "interval": row.interval,
        "error": row.error,
    }


def _median_error(level: Level, metric: str) -> float | None:
    errors = np.abs(request_errors(level.comparisons, metric))
    return float(np.median(errors)) if len(errors) else None


def _requests(level: Level) -> dict[str, Any]:
    parts = []
    for number, (run, comparison) in enumerate(zip(level.measured, level.comparisons, strict=True), start=1):
        columns: dict[str, Any] = {
            "repetition": np.full(len(run), number, np.int32),
            "sent": run.requests["arrival"],
            **{name: run.requests[name] for name in ("id", "prompt_tokens", "generated_tokens", "images")},
        }
        for metric in METRICS:
            columns[f"predicted_{metric}"] = comparison.predicted.latency[metric]
            columns[f"measured_{metric}"] = comparison.measured.latency[metric]
        parts.append(columns)
    return {name: np.concatenate([part[name] for part in parts]) for name in COMPARISON_COLUMNS}


def _write_json(path: Path, data: object) -> None:
    """Whole or not at all."""
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    new.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    new.replace(path)
