"""`triptych profile` as a person runs it: progress with the time left, then how well the sum does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from triptych.profiler.api import Outcome, run_profile
from triptych.profiler.assemble import Check
from triptych.profiler.progress import Advance
from triptych.report.format import percent
from triptych.report.table import without_trailing_blanks

_PASSES = {"forward": "language model", "vision forward": "vision tower"}


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
    console, watcher = Console(), Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=watcher, transient=True, disable=not watcher.is_terminal) as bar:
            task, advance = bar.add_task("starting", total=None), Advance(len(tp))

            def progress(line: dict[str, Any]) -> None:
                advance.take(line)
                bar.update(
                    task,
                    description=advance.what,
                    completed=advance.done,
                    total=advance.total or None,
                )

            outcome = run_profile(model, device=device, tp=tp, out=out, progress=progress, **options)
    except KeyboardInterrupt:
        watcher.print("interrupted; what was finished is kept: the same command goes on from there")
        return False
    print_outcome(outcome, console)
    return True


def print_outcome(outcome: Outcome, console: Console) -> None:
    """Prints how well whole passes are the sum of their operators, and what there is to know of the rows."""
    with without_trailing_blanks(console):
        if outcome.checks:
            console.print("[bold]Whole passes, predicted as the sum of their operators[/]\n", highlight=False)
            console.print(_table(outcome.checks), highlight=False)
            console.print()
        rows, unsteady = len(outcome.profile), int(outcome.profile.columns["unsteady"].sum())
        console.print(f"{rows:,} rows, {percent(unsteady / rows)} of them unsteady.", highlight=False)
        console.print(outcome.profile.info.notes, style="dim italic", highlight=False, markup=False)
    if not outcome.finished:
        console.print("[bold yellow]note[/]  not all was measured: the same command goes on from here")
    console.print(f"\nwritten to {outcome.path}", highlight=False, markup=False, soft_wrap=True)


def _table(checks: Sequence[Check]) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 0, 0, 2), pad_edge=False, header_style="bold cyan"
    )
    for heading in ("", "tensor", "passes", "median |error|", "mean error", "largest"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for check in checks:
        errors = (f"{check.median_error:.1%}", f"{check.bias:+.1%}", f"{check.worst:.1%}")
        table.add_row(_PASSES.get(check.what, check.what), str(check.tensor), str(check.passes), *errors)
    return table
