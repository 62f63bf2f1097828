"""Predictions held against real engines that others ran: vLLM, request by request and in closed loops.

A case is a folder of profiles, workloads, engine arguments and, where there are any, measurements; every
folder of `--data` that has their layout is run (`cases/vllm_folder.py`, `cases/closed_loop.py`). No constant
is fitted to a run that it is judged on: `docs/fidelity.md` says of each where it comes from.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cases.case import Case, Floats, Refused
from cases.closed_loop import closed_loop_cases
from cases.host_time import Sample, host_time
from cases.report import print_tables, write_document
from cases.vllm_folder import vllm_cases
from triptych import simulate
from triptych.record import Run
from triptych.spec.calibration import Calibration

STATISTICS = {
    "mean": np.mean,
    "p50": np.median,
    "p90": lambda values: np.percentile(values, 90),
    "p99": lambda values: np.percentile(values, 99),
}
_QUICK = 9
"""Of the closed loops, every so-manieth is run."""


@dataclass(frozen=True)
class Result:
    """A case and what was predicted for it."""

    case: Case
    run: Run
    calibration: Calibration | None = None

    def latency(self, metric: str) -> Floats:
        """Predicted, of the requests that count, shape (n,)."""
        values = self.run.column(metric)[self.case.skip :]
        return values[~np.isnan(values)]


def main() -> None:
    """Runs every case, prints the tables and writes what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--quick", action="store_true", help=f"of the closed loops every {_QUICK}th")
    parser.add_argument("--json", metavar="FILE", help="write the rows; - for standard output")
    parser.add_argument("--docs", type=Path, metavar="DIR", help="write fidelity.md and its figures there")
    options = parser.parse_args()
    cases = list(find_cases(options.data))
    if not cases:
        raise SystemExit(f"{options.data}: no folder has the layout of a case; name another with --data")
    refused = [case for case in cases if isinstance(case, Refused)]
    results = [predict(case) for case in cases if isinstance(case, Case) and case.per_request]
    loops = [case for case in cases if isinstance(case, Case) and not case.per_request]
    bare, calibrated = closed_loops(loops[:: _QUICK if options.quick else 1])
    rows = [row for result in [*results, *calibrated] for row in rows_of(result)]
    rows += [{**row, "case": f"{row['case']} (no host time)"} for each in bare for row in rows_of(each)]
    if options.json == "-":
        json.dump(rows, sys.stdout, indent=1)
        return
    print_tables(results, bare, calibrated, refused, rows)
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if options.docs:
        write_document(options.docs, results, bare, calibrated, refused, rows)


def find_cases(data: Path) -> Iterator[Case | Refused]:
    """Of every folder that has a known layout."""
    for root in [data, *sorted(path for path in data.iterdir() if path.is_dir())]:
        if any(root.glob("profiles/*/*/*/*/meta.yaml")):
            yield from vllm_cases(root)
        if any(root.glob("measured_*.csv")) and (root / "operators").is_dir():
            yield from closed_loop_cases(root)


def predict(case: Case, calibration: Calibration | None = None) -> Result:
    """Simulates a case."""
    if calibration is None:
        return Result(case, simulate(case.deployment, case.requests))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "host-time.yaml"
        path.write_text(calibration.to_yaml(), encoding="utf-8")
        named = case.deployment.model_copy(update={"calibration": str(path)})
        return Result(case, simulate(named, case.requests), calibration)


def closed_loops(cases: Sequence[Case]) -> tuple[list[Result], list[Result]]:
    """Predicted by kernels alone, and with host time from other runs; those without any stay as they are."""
    bare = [predict(case) for case in cases]
    samples = [Sample(each.case, float(each.latency("tpot").mean())) for each in bare]
    calibrated = []
    for result, sample in zip(bare, samples, strict=True):
        learned = host_time(sample, samples)
        calibrated.append(result if learned is None else predict(result.case, learned))
    return bare, calibrated


def rows_of(result: Result) -> Iterator[dict[str, Any]]:
    """A row for each statistic of each metric, and for the rates."""
    case, run = result.case, result.run
    for metric in ("ttft", "tpot", "e2e"):
        predicted, measured = result.latency(metric), case.measured.get(metric)
        for name, statistic in STATISTICS.items():
            if not case.per_request and (measured is None or name != "mean"):
                continue
            known = None if measured is None else float(statistic(measured))
            yield row(case.name, metric, name, float(statistic(predicted)), known)
    if case.per_request:
        tokens = float(case.requests.output_tokens.sum())
        known = None if case.horizon is None else tokens / case.horizon
        yield row(case.name, "output_tokens_per_s", "rate", tokens / run.horizon, known)
    if case.timeseries is not None:
        yield from _scheduling(result, case.timeseries)


def row(case: str, metric: str, statistic: str, predicted: float, measured: float | None) -> dict[str, Any]:
    """One figure; error = (predicted - measured) / measured."""
    error = None if not measured else predicted / measured - 1
    return {
        "case": case,
        "metric": metric,
        "statistic": statistic,
        "predicted": predicted,
        "measured": measured,
        "error": error,
    }


def _scheduling(result: Result, path: Path) -> Iterator[dict[str, Any]]:
    """Running and waiting requests at the times at which the engine counted them."""
    series = np.genfromtxt(path, delimiter=",", names=True)
    running, waiting = occupancy(result.run, series["t"])
    for name, predicted in (("running", running), ("waiting", waiting)):
        yield row(result.case.name, name, "mean", float(predicted.mean()), float(series[name].mean()))
        apart = float(np.abs(predicted - series[name]).mean())
        yield row(result.case.name, name, "mean distance", apart, None)


def occupancy(run: Run, times: Floats) -> tuple[Floats, Floats]:
    """Requests that run and that wait at these times, shape (times,); the preempted wait, as engines count.

    Of instances with one lane.
    """
    came, began, ended = (run.requests[name] for name in ("arrival", "prefill_start", "end"))
    at = times[:, None]
    again = _preempted(run, times)
    running = ((began <= at) & (ended > at)).sum(axis=1) - again
    waiting = ((came <= at) & (began > at)).sum(axis=1) + again
    return running.astype(np.float64), waiting.astype(np.float64)


def _preempted(run: Run, times: Floats) -> Floats:
    """Requests that have begun and wait once more: who wait beside a batch, less those yet to begin."""
    again = np.zeros(len(times))
    for lane in run.lanes:
        start, waiting = lane.columns["start"], lane.columns["waiting"]
        here = run.requests["prefill_instance"] == lane.instance
        came, began = (np.sort(run.requests[name][here]) for name in ("arrival", "prefill_start"))
        new = np.searchsorted(came, start, "right") - np.searchsorted(began, start, "right")
        batch = np.searchsorted(start, times, "right") - 1
        again += np.where(batch >= 0, np.maximum(waiting - new, 0)[batch], 0)
    return again


if __name__ == "__main__":
    main()
