"""The run folder: a run record on disk, written whole or not at all.

run.json          what kind of folder this is; instances, SLO, horizon, how the run was made
summary.json      all metrics, see `summary.py`
requests.parquet  a row a request: raw and derived columns
batches.parquet   a row a batch (equal decode iterations share one); all, a sample, or none
spans.parquet     stays in decode sets, if all batches are there: token times follow from the two
transfers.parquet embeddings and KV sent, if they were logged
deployment.yaml, workload.yaml, and trace.json if asked for
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from triptych.record import tables
from triptych.record.columns import SPAN_COLUMNS, TRANSFER_COLUMNS
from triptych.record.logs import InstanceInfo, LaneLog, Spans, Transfers
from triptych.record.metrics import summarise
from triptych.record.run import BatchLog, Run
from triptych.record.summary import Summary
from triptych.spec.base import SpecError

_FORMAT = "triptych run"
_VERSION = 1
_SAMPLE_ROWS = 1_000_000


def write_run(
    run: Run,
    folder: str | Path,
    *,
    batches: BatchLog = "all",
    summary: Summary | None = None,
    trace: Callable[[Run, Path], None] | None = None,
) -> None:
    """Writes the run folder; an earlier run in its place is replaced once the new one is complete.

    Args:
        run: with all its batches.
        folder: where; its parents are made.
        batches: which rows of batches to write: "sample" is every n-th row of each lane, the smallest n that
            leaves about a million.
        summary: of the run, where it is known already.
        trace: writes `trace.json`: `report.perfetto.write_trace`.

    Raises:
        SpecError: there is something at `folder` that is no run.
        ValueError: the run itself was read without all its batches.
    """
    with _replacing(Path(folder)) as target:
        _write_json(target / "summary.json", (summary or summarise(run)).to_dict())
        _write_json(target / "run.json", _description(run, batches))
        (target / "deployment.yaml").write_text(run.deployment_yaml, encoding="utf-8")
        (target / "workload.yaml").write_text(run.workload_yaml, encoding="utf-8")
        tables.write_requests(run, target / "requests.parquet")
        if batches != "off":
            rows = sum(len(lane) for lane in run.lanes)
            every = -(-rows // _SAMPLE_ROWS) if batches == "sample" else 1
            tables.write_batches(run.lanes, target / "batches.parquet", max(every, 1))
        if batches == "all":
            tables.write_table(run.spans.columns, target / "spans.parquet", SPAN_COLUMNS)
        if run.transfers is not None:
            tables.write_table(run.transfers.columns, target / "transfers.parquet", TRANSFER_COLUMNS)
        if trace is not None:
            trace(run, target / "trace.json")


def check_target(folder: Path) -> None:
    """Sees to it, before any work is done, that a run may and can be written there.

    Raises:
        SpecError: there is something at `folder` that is no run, or its place cannot be written to.
    """
    try:
        if not folder.exists():
            pass
        elif not folder.is_dir():
            raise SpecError("", "is a file; name a folder for the run", file=folder)
        elif any(folder.iterdir()) and not (folder / "run.json").is_file():
            problem = "holds something that is no run and will not be overwritten; name another folder"
            raise SpecError("", problem, file=folder)
        place = next((parent for parent in folder.absolute().parents if os.path.lexists(parent)), folder)
        TemporaryDirectory(dir=place, prefix=".").cleanup()
    except OSError as error:
        problem = f"cannot be written: {error.strerror}; name another place"
        raise SpecError("", problem, file=folder) from None


def read_run(folder: str | Path) -> Run:
    """The run of a folder. Derived columns are those that were written, not computed again.

    Raises:
        SpecError: there is no run, or a part of it is missing or broken.
    """
    folder = Path(folder)
    about = _read_description(folder)
    requests = tables.read_requests(folder / "requests.parquet")
    no_spans = {name: np.empty(0, kind) for name, (kind, _) in SPAN_COLUMNS.items()}
    whole = about["batches"] == "all"
    transfers = folder / "transfers.parquet"
    try:
        return Run(
            requests=requests,
            lanes=_read_lanes(folder, about),
            spans=Spans(tables.read_table(folder / "spans.parquet") if whole else no_spans),
            instances=[
                InstanceInfo(**{**info, "phases": tuple(info["phases"])}) for info in about["instances"]
            ],
            horizon=about["horizon"],
            transfers=Transfers(tables.read_table(transfers)) if about["transfers"] else None,
            deployment_yaml=(folder / "deployment.yaml").read_text(encoding="utf-8"),
            workload_yaml=(folder / "workload.yaml").read_text(encoding="utf-8"),
            slo=[(metric, statistic, bound) for metric, statistic, bound in about["slo"]],
            producer=about["producer"],
            interrupted=about["interrupted"],
            batch_log=about["batches"],
            meta=about["meta"],
        )
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError("", f"the run is broken ({error}); make it again", file=folder) from None
    except OSError as error:
        problem = f"{Path(error.filename).name} cannot be read: {error.strerror}; make the run again"
        raise SpecError("", problem, file=folder) from None


def read_summary(folder: str | Path) -> Summary:
    """The summary of a run folder, without reading its tables.

    Raises:
        SpecError: there is no run, or its summary is missing or broken.
    """
    folder = Path(folder)
    _read_description(folder)
    path = folder / "summary.json"
    try:
        return Summary.from_dict(_read_json(path))
    except (KeyError, TypeError):
        raise SpecError("", "is not a summary of this version; make the run again", file=path) from None


def _description(run: Run, batches: BatchLog) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "producer": run.producer,
        "interrupted": run.interrupted,
        "horizon": run.horizon,
        "batches": batches,
        "transfers": run.transfers is not None,
        "slo": [list(bound) for bound in run.slo],
        "lanes": [[lane.instance, lane.lane] for lane in run.lanes],
        "instances": [asdict(info) for info in run.instances],
        "meta": dict(run.meta),
    }


def _read_description(folder: Path) -> dict[str, Any]:
    if not (folder / "run.json").is_file():
        what = "there is no run here" if folder.is_dir() else "no such folder"
        raise SpecError("", f"{what}; give the folder that a run was written to", file=folder)
    about = _read_json(folder / "run.json")
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
        raise SpecError("", "run.json is not of a run; give the folder of one", file=folder)
    if about.get("version") != _VERSION:
        problem = f"is version {about.get('version')} of a run, this release reads {_VERSION}"
        raise SpecError("", f"{problem}; make the run again", file=folder)
    return about


def _read_lanes(folder: Path, about: dict[str, Any]) -> list[LaneLog]:
    places = [(instance, lane) for instance, lane in about["lanes"]]
    path = folder / "batches.parquet"
    return tables.read_batches(path, places) if about["batches"] != "off" else tables.no_batches(places)


def _write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError("", "is missing; make the run again", file=path) from None
    except (OSError, ValueError):
        raise SpecError("", "is not readable JSON; make the run again", file=path) from None


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` that takes its place if all goes well, and vanishes if not."""
    check_target(folder)
    folder = folder.absolute()
    new = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        new.mkdir(parents=True)
    except OSError as error:
        raise SpecError("", f"cannot be written: {error.strerror}", file=folder) from None
    try:
        yield new
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
