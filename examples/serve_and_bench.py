"""Predicts a deployment, serves and benches it on this machine, and lays the two side by side.

python examples/serve_and_bench.py [DEPLOYMENT [WORKLOAD]]
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from rich.console import Console

import triptych
from triptych.plan import rooted
from triptych.report.prediction import print_prediction
from triptych.report.table import print_summary
from triptych.spec.base import SpecError
from triptych.spec.deployment import Deployment
from triptych.spec.workload import WorkloadSpec
from triptych.validation.api import validate
from triptych.validation.console import draw_levels, say, watched
from triptych.validation.profiling import ProfileOnce, measure_now
from triptych.validation.server import Interrupted
from triptych.validation.table import print_means
from triptych.validation.watch import Watch
from triptych.workload import generate

EXAMPLES = Path(__file__).resolve().parent
OUT = Path("runs/demo-validation")


def main() -> int:
    """Returns the exit code: 2 where something declared is wrong, 130 after Ctrl-C."""
    deployment = Path(sys.argv[1] if len(sys.argv) > 1 else EXAMPLES / "deployments/small-vl-cpu.yaml")
    workload = Path(sys.argv[2] if len(sys.argv) > 2 else EXAMPLES / "workloads/small-vision.yaml")
    try:
        compare(deployment, workload)
    except SpecError as error:
        print(f"triptych: {error}", file=sys.stderr)
        return 2
    except (Interrupted, KeyboardInterrupt):
        return 130
    return 0


def compare(deployment: Path, workload: Path) -> None:
    """Prints what is predicted before anything is measured, what is measured, and the errors."""
    console = Console()
    console.print("\n[bold]Predicted[/]")
    with_profile = ProfileOnce(partial(say, console), measure_now)
    declared = rooted(Deployment.load(deployment), deployment)
    requests = generate(WorkloadSpec.load(workload), file=workload)
    with watched() as progress:
        declared = with_profile(declared, requests, Watch(progress).step("measuring operators"))
    predicted = triptych.simulate(declared, workload)
    print_summary(triptych.summarise(predicted), console)
    print_prediction(predicted.meta, console)
    console.print("\n[bold]Measured[/]: the server starts, and answers the same requests", highlight=False)
    with watched() as progress:
        found = validate(
            deployment,
            workload,
            OUT,
            repeats=1,
            ensure_profile=lambda *given: declared,
            progress=progress,
        )
    (level,) = found.levels
    print_summary(triptych.summarise(level.measured[0]), console)
    console.print("\n[bold]Predicted for the requests as they were sent, beside measured[/] (means)\n")
    print_means(level, console)
    say(console, f"\nrecords in {OUT}")
    say(console, draw_levels(found))


if __name__ == "__main__":
    sys.exit(main())
