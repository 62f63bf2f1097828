"""The requests of a measured run as the server got them, and what is predicted for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from triptych import catalog
from triptych.record import STATUSES, Run, Spans, Transfers
from triptych.record.columns import REQUEST_COLUMNS
from triptych.record.logs import Columns, Ints
from triptych.simulation import simulate
from triptych.spec.deployment import Deployment
from triptych.spec.model import Model
from triptych.spec.workload import WorkloadSpec
from triptych.workload import Requests
from triptych.workload.parquet import write_parquet

_REJECTED = STATUSES.index("rejected")
_WAITING = STATUSES.index("waiting")


def workload_of(requests: Requests, file: Path, like: WorkloadSpec, seed: int) -> WorkloadSpec:
    """A workload that is these requests, which are written to `file`.

    Args:
        requests: all of it.
        file: Parquet.
        like: the workload they come from; its SLO is kept.
        seed: of the contents of prompts and images, all that is left to draw.
    """
    write_parquet(requests, file)
    trace = {"format": "parquet", "path": str(file.absolute())}
    return WorkloadSpec.parse({"trace": trace, "seed": seed}).model_copy(update={"slo": like.slo})


def predict(
    deployment: Deployment,
    workload: WorkloadSpec,
    requests: Requests,
    measured: Run,
    file: Path,
    progress: Callable[[int, int, float], bool] | None,
    left: float = 1.0,
) -> Run:
    """Simulates the requests of a measured run.

    Args:
        deployment: that served them.
        workload: they come from.
        requests: as they were planned.
        measured: what became of them.
        file: Parquet, for the requests as the server got them.
        progress: as of `simulate`.
        left: likewise.

    Returns:
        The record, with the rows of `measured`: a request that the server did not take never came.

    Raises:
        SpecError: as of `simulate`.
    """
    rows, taken = as_sent(requests, measured, catalog.model(deployment.model))
    replayed = workload_of(taken, file, workload, workload.seed)
    run = simulate(deployment, replayed, progress=progress, left=left)
    return _with_rows(run, rows, len(measured))


def as_sent(requests: Requests, measured: Run, model: Model) -> tuple[Ints, Requests]:
    """Which requests the server took, in the order they were sent, and what it got.

    They come when the client sent them (where only so many may be in flight: when they were due and one had
    ended, which is for the simulator to say), with prompts as long as the server counted and outputs as long
    as it made them. A request that had not ended has the output that was asked for.
    """
    columns = measured.requests
    rows = np.argsort(columns["arrival"], kind="stable")
    accepted = (columns["status"] != _REJECTED) & ~np.isnan(columns["arrival"])
    rows = rows[accepted[rows]]
    taken = replace(requests, concurrency=None).take(rows, np.maximum(columns["arrival"][rows], 0.0))
    # Where the server did not say how it counts, there are no image tokens, and the rest is text.
    counted = np.where(columns["image_tokens"] > 0, _image_tokens(requests, model), 0)
    text = np.maximum(columns["prompt_tokens"] - counted, 1)[rows]
    output = np.where(measured.finished, columns["generated_tokens"], columns["output_tokens"])[rows]
    taken = replace(
        taken,
        text_tokens=text.astype(np.int64),
        output_tokens=np.maximum(output, 1).astype(np.int64),
    )
    if requests.concurrency is not None:
        taken = replace(taken, arrival=requests.arrival[rows], concurrency=requests.concurrency)
    return rows, taken


def _image_tokens(requests: Requests, model: Model) -> Ints:
    """Tokens of the images of each request, shape (requests,)."""
    tokens = np.zeros(len(requests), np.int64)
    if model.vision is None:
        return tokens
    sizes = zip(requests.image_width.tolist(), requests.image_height.tolist(), strict=True)
    each = [model.vision.tokens(width, height) for width, height in sizes]
    np.add.at(tokens, np.repeat(np.arange(len(requests)), requests.image_counts), np.array(each, np.int64))
    return tokens


def _with_rows(run: Run, rows: Ints, count: int) -> Run:
    """A run of some requests as one of all `count`, in which the others never came."""
    columns: dict[str, Any] = {}
    for name, (kind, _) in REQUEST_COLUMNS.items():
        missing = np.nan if kind == "float64" else -1 if name.endswith("_instance") else 0
        column = np.full(count, missing, run.requests[name].dtype)
        column[rows] = run.requests[name]
        columns[name] = column
    came = np.zeros(count, np.bool_)
    came[rows] = True
    columns["status"][~came] = _WAITING
    columns["id"] = np.arange(count)
    transfers = None if run.transfers is None else Transfers(_renumbered(run.transfers.columns, rows))
    return replace(
        run,
        requests=columns,
        spans=Spans(_in_order(_renumbered(run.spans.columns, rows))),
        transfers=transfers,
    )


def _renumbered(columns: Columns, rows: Ints) -> Columns:
    return {**columns, "request": rows[columns["request"]]}


def _in_order(columns: Columns) -> Columns:
    order = np.argsort(columns["request"], kind="stable")
    return {name: column[order] for name, column in columns.items()}
