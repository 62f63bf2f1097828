"""The bounds of the SLO as a terminal table: what is held to each, how sure that is, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from triptych.record.summary import SloResult
from triptych.report.format import NONE, percent, seconds
from triptych.report.layout import GROWS, METRICS, UNKNOWN, headed, heading

if TYPE_CHECKING:
    from rich.table import Table

SLO_COLUMNS = {"value": 1, "90% interval": 2, "bound": 0, "verdict": 0, "within": 3}
"""Columns, and in which order they are left out where they do not fit: the highest number first."""
_WITHIN = "within: share of the requests, for ITL of the gaps between tokens."
_NO_MEAN = "A mean has no value where a request failed: bound a percentile in its place."
_VERDICTS = {
    "met": "[green]met[/]",
    "missed": "[bold red]MISSED[/]",
    "uncertain": "[bold yellow]uncertain[/]",
    "no request": NONE,
}


def slo_table(results: Sequence[SloResult], columns: Sequence[str]) -> Table:
    """A line a bound, with some of the columns; the interval only where a run was predicted with one."""
    with_interval = any(result.interval is not None for result in results)
    columns = [name for name in columns if with_interval or name != "90% interval"]
    table = headed("SLO", columns)
    for result in results:
        cells = {
            "value": _value(result),
            "90% interval": _interval(result),
            "bound": f"<= {seconds(result.bound)}",
            "verdict": _VERDICTS[result.verdict],
            "within": percent(result.share),
        }
        name = f"{METRICS[result.metric]} {heading(result.statistic)}"
        table.add_row(name, *(cells[column] for column in columns))
    return table


def slo_note(results: Sequence[SloResult]) -> str:
    """What a reader of the table has to know."""
    no_mean = any(one.statistic == "mean" and one.value is None and one.share is not None for one in results)
    return f"{_WITHIN} {_NO_MEAN}" if no_mean else _WITHIN


def _value(result: SloResult) -> str:
    if result.verdict == "no request":
        return result.verdict
    if result.grows:
        return GROWS
    if result.value is not None:
        return seconds(result.value)
    return UNKNOWN if result.verdict == "uncertain" and result.interval is None else "never"


def _interval(result: SloResult) -> str:
    if result.interval is None or result.verdict == "no request":
        return NONE
    low, high = result.interval
    if low is None:
        return "no limit"
    return f"{seconds(low)} or more" if high is None else f"{seconds(low)} to {seconds(high)}"
