"""What a validation found, as terminal tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from triptych.report.compare import METRICS, RATE, Row, request_errors
from triptych.report.format import NONE, count, number, percent, seconds
from triptych.report.table import without_trailing_blanks
from triptych.validation.result import Level, Validation

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

LARGE = 0.09
"""Error from which on a figure is marked: what Vidur (Agrawal et al., MLSys 2024) promises for requests."""
_NAMES = {
    "ttft": "TTFT",
    "tpot": "TPOT",
    "e2e": "E2E",
    "output_tokens": "output tokens/s",
    "requests": "requests/s",
}
_MARK = "<<"


def print_validation(validation: Validation, console: Console) -> None:
    """Prints each level: predicted, measured and error side by side, and what has to be known of them."""
    with without_trailing_blanks(console):
        _print_levels(validation, console)


def _print_levels(validation: Validation, console: Console) -> None:
    if validation.capacity is not None:
        console.print(
            f"\ncapacity {number(validation.capacity)} requests/s: a closed loop of "
            f"{validation.concurrency} requests, the most that the scheduler runs at once",
            highlight=False,
        )
    if validation.calibrated:
        console.print("predictions rest on a calibration to that loop", highlight=False)
    for level in validation.levels:
        console.print()
        if level.load is not None and validation.capacity is not None:
            rate = number(level.load * validation.capacity)
            console.print(f"[bold]load {level.load:g}: {rate} requests/s[/]", highlight=False)
        console.print(_table(level), highlight=False)
        console.print(_footer(level), style="dim italic", highlight=False)
        _print_notes(level, console)


def print_means(level: Level, console: Console) -> None:
    """Prints the means alone, and the notes."""
    table = _headed("")
    for row in level.rows:
        if row.statistic in ("mean", RATE):
            table.add_row(_NAMES[row.metric], *_values(row))
    with without_trailing_blanks(console):
        console.print(table, highlight=False)
        _print_notes(level, console)


def _print_notes(level: Level, console: Console) -> None:
    from rich.markup import escape

    for note in level.notes:
        console.print(f"[bold yellow]note[/]  {escape(note)}", highlight=False)


def _table(level: Level) -> Table:
    table = _headed("", "", interval=True)
    table.add_column("", no_wrap=True)
    before = ""
    for row in level.rows:
        name = _NAMES[row.metric]
        large = is_large(row)
        table.add_row(
            "" if name == before else f"[bold]{name}[/]",
            "" if row.statistic == RATE else row.statistic.upper() if row.statistic != "mean" else "mean",
            *_values(row, interval=True),
            _MARK if large else "",
            style="red" if large else None,
        )
        before = name
    return table


def is_large(row: Row) -> bool:
    """Whether an error is above the bound, and the difference more than the measurement leaves open."""
    if row.error is None or row.predicted is None or row.measured is None or abs(row.error) <= LARGE:
        return False
    return row.interval is None or abs(row.predicted - row.measured) > row.interval


def _headed(*names: str, interval: bool = False) -> Table:
    """A table with these columns and then the figures."""
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 0, 0, 2), pad_edge=False, header_style="bold cyan"
    )
    for name in names:
        table.add_column(name)
    for heading in ("predicted", "measured", *(["+-"] if interval else []), "error"):
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _values(row: Row, *, interval: bool = False) -> list[str]:
    """The figures of a row as they are printed."""
    shown = [row.predicted, row.measured, *([row.interval] if interval else [])]
    texts = [number(value) if row.statistic == RATE else seconds(value) for value in shown]
    return [*texts, NONE if row.error is None else f"{row.error * 100:+.1f}%"]


def _footer(level: Level) -> str:
    repeats = len(level.measured)
    if repeats == 1:
        said, beyond = "Measured once: no interval.", ""
    else:
        said = f"Means of {repeats} repetitions; +- is the 95% confidence interval of what was measured."
        beyond = ", and by more than +-"
    halves = []
    for metric in METRICS:
        errors = np.abs(request_errors(level.comparisons, metric))
        if len(errors):
            halves.append(f"{_NAMES[metric]} {percent(float(np.median(errors)))}")
    of = count(len(level.measured[0]), "request")
    return (
        f"{said} {_MARK} more than {LARGE * 100:g}% off{beyond}.\n"
        f"Half of the {of} are off by less than: {', '.join(halves)}."
    )
