"""What `triptych validate` left in folders: errors as predicted, and at the speed that the batches had.

    python benchmarks/validation.py runs/unified runs/sarathi [--json FILE]

A machine whose speed drifts is not as fast while it serves as when it was profiled, and near capacity a
little less speed is a much longer queue. So each repetition is also predicted with all its batches longer, or
less long, by the one ratio by which they were, with delays of the front end as in `DELAYS`. The error left is
that of scheduling, queueing and the kinds of batches. It is no prediction: the ratio is of the very run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from triptych.cost import IterationCost
from triptych.plan import plan_pools
from triptych.record import Run, read_run
from triptych.report.compare import METRICS, compare, rows
from triptych.simulation import simulate
from triptych.spec.calibration import Calibration, Factors
from triptych.spec.deployment import Deployment
from triptych.spec.workload import WorkloadSpec
from triptych.validation.calibrate import host_time
from triptych.validation.during import during
from triptych.validation.result import JUDGED

DELAYS = {"front_end": 0.002, "front_end_image": 0.0035, "answer": 0.002}
"""Seconds, as `triptych calibrate` found them on two cores of a Xeon."""


def main() -> int:
    """Prints a line for each level of each validation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--json", metavar="FILE", help="write the figures; - for standard output")
    options = parser.parse_args()
    found = [level for folder in options.folders for level in levels(folder)]
    text = json.dumps(found, indent=1)
    if options.json == "-":
        print(text)
        return 0
    for level in found:
        ratios = " ".join(f"{ratio:.2f}" for ratio in level["ratios"])
        print(f"{level['name']}: batches took {ratios} times as long as predicted")
        for what in ("predicted", "at that speed"):
            errors = "  ".join(f"{name} {error:+.1%}" for name, error in level[what].items())
            print(f"  {what:14} {errors}")
    if options.json:
        Path(options.json).write_text(text + "\n", encoding="utf-8")
    return 0


def levels(folder: Path) -> Iterator[dict[str, Any]]:
    """The figures of each level of a validation."""
    declared = Deployment.load(folder / "deployment.yaml").model_copy(update={"calibration": None})
    (plan,) = plan_pools(declared)
    server = read_run(folder / "server")
    for level in sorted({file.parent for file in folder.rglob("measured-1")}):
        measured = [read_run(one) for one in sorted(level.glob("measured-*")) if one.is_dir()]
        predicted = [read_run(one) for one in sorted(level.glob("predicted-*")) if one.is_dir()]
        ratios = [ratio(plan.cost, during(server, [run])) for run in measured]
        again = [
            at_speed(declared, plan.cost, longer, level / f"predicted-{place}" / "workload.yaml")
            for place, longer in enumerate(ratios, start=1)
        ]
        yield {
            "name": folder.name if level == folder else f"{folder.name} {level.name}",
            "ratios": ratios,
            "predicted": errors(predicted, measured),
            "at that speed": errors(again, measured),
        }


def ratio(cost: IterationCost, server: Run) -> float:
    """By how much batches took longer than is predicted for them."""
    (lane,) = server.lanes
    host = host_time(cost)
    seconds = lane["iterations"] * (host.iteration + host.sequence * lane["sampled"])
    return float(lane.seconds.sum() / sum(cost.breakdown(lane.columns)[0].values(), seconds).sum())


def at_speed(deployment: Deployment, cost: IterationCost, longer: float, workload: Path) -> Run:
    """A prediction in which every batch is so many times as long."""
    host = host_time(cost)
    calibration = Calibration(
        iteration=longer * host.iteration,
        sequence=longer * host.sequence,
        factors=Factors(**dict.fromkeys(Factors.model_fields, longer)),
        **DELAYS,
    )
    with TemporaryDirectory() as folder:
        file = Path(folder) / "calibration.yaml"
        file.write_text(calibration.to_yaml(), encoding="utf-8")
        calibrated = deployment.model_copy(update={"calibration": str(file)})
        return simulate(calibrated, WorkloadSpec.load(workload))


def errors(predicted: list[Run], measured: list[Run]) -> dict[str, float | None]:
    """Of mean and P90 of each latency, over requests that all were taken by the server."""
    pairs = [compare(*pair) for pair in zip(predicted, measured, strict=True)]
    found = {(row.metric, row.statistic): row.error for row in rows(pairs)}
    return {f"{metric} {which}": found[metric, which] for metric in METRICS for which in JUDGED}


if __name__ == "__main__":
    sys.exit(main())
