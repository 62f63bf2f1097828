"""What a bench leaves behind beside the run record: what only a client knows, and sweeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from triptych.bench.assemble import CLIENT_COLUMNS
from triptych.bench.sweep import Point, Sweep
from triptych.record import Run, Summary, write_run
from triptych.record.tables import write_table
from triptych.spec.base import SpecError

_SWEEP = "sweep.json"


def write_bench(run: Run, folder: Path, summary: Summary) -> None:
    """Writes the run folder, with `client.parquet` in it.

    Raises:
        SpecError: there is something at `folder` that is no run.
    """
    write_run(run, folder, summary=summary)
    columns = {name: run.requests[name] for name in CLIENT_COLUMNS}
    write_table(columns, folder / "client.parquet", CLIENT_COLUMNS)


def check_sweep_target(folder: Path) -> None:
    """Sees to it, before any work is done, that a sweep may be written there.

    Raises:
        SpecError: there is something at `folder` that is no sweep, or its place cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()) and not (folder / _SWEEP).is_file():
            problem = "holds something that is no sweep and will not be overwritten; name another folder"
            raise SpecError("", problem, file=folder)
    except OSError as error:
        raise SpecError("", f"cannot be written: {error.strerror}; name another place", file=folder) from None


def write_sweep(sweep: Sweep, folder: Path) -> None:
    """Writes the run of the last point, and the table of all of them."""
    last = sweep.points[-1]
    write_bench(last.run, folder / _name(last), last.summary)
    new = folder / f".{_SWEEP}.new"
    new.write_text(json.dumps(sweep_as_dict(sweep), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    new.replace(folder / _SWEEP)


def sweep_as_dict(sweep: Sweep) -> dict[str, Any]:
    """The rates that were tried, with what was measured at each."""
    rows = [
        {
            "rate": point.rate,
            "keeps_up": not point.problem,
            "problem": point.problem,
            "folder": _name(point),
            "summary": point.summary.to_dict(),
        }
        for point in sorted(sweep.points, key=lambda point: point.rate)
    ]
    return {
        "format": "triptych sweep",
        "capacity": sweep.capacity,
        "hopeless": sweep.hopeless,
        "points": rows,
    }


def _name(point: Point) -> str:
    return f"rate-{point.rate:.6g}"
