"""`triptych profile` as a person runs it: progress with the time left, then how well the sum does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from triptych.profiler.api import Outcome, run_profile


def profile_and_report(model: str, *, device: str, tp: Sequence[int], out: Path, **options: Any) -> bool:
    """Measures, shows how far it is, and prints what came of it.

    Args:
        model: as in `run_profile`, as the others are.
        device: likewise.
        tp: likewise.
        out: likewise.
        options: likewise.

    Returns:
        False if it was interrupted; then nothing is written but what is kept for the next time.

    Raises:
        SpecError: as `run_profile`.
    """
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("starting", total=None)

            def progress(line: dict[str, Any]) -> None:
                if line["kind"] == "model":
                    bar.reset(
                        task, total=line["left"], description=f"{line['name']}, tensor {line['tensor']}"
                    )
                elif line["kind"] == "again":
                    bar.reset(task, total=line["left"], description="what was unsteady, again")
                elif line["kind"] == "turn":
                    bar.advance(task)

            outcome = run_profile(model, device=device, tp=tp, out=out, progress=progress, **options)
    except KeyboardInterrupt:
        console.print("stopped; what was finished is kept: the same command goes on from there")
        return False
    _print(outcome, console)
    return True


def _print(outcome: Outcome, console: Console) -> None:
    table = Table(title="Whole passes predicted as the sum of their operators", title_justify="left")
    for heading in ("pass", "tensor", "passes", "median |error|", "mean error", "largest"):
        table.add_column(heading, justify="left" if heading == "pass" else "right")
    for check in outcome.checks:
        errors = (f"{check.median_error:.1%}", f"{check.bias:+.1%}", f"{check.worst:.1%}")
        table.add_row(check.what, str(check.tensor), str(check.passes), *errors)
    if outcome.checks:
        console.print(table)
    profile = outcome.profile
    unsteady = float(profile.columns["unsteady"].mean())
    console.print(f"{len(profile)} rows, {unsteady:.0%} of them unsteady. {profile.info.notes}")
    if not outcome.finished:
        console.print("not all was measured in the time given: the same command goes on from here")
    console.print(str(outcome.path), style="bold")
