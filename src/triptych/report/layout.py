"""What the tables of a run are laid out with: they fit where they are printed, columns left out whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

METRICS = {
    "ttft": "TTFT",
    "tpot": "TPOT",
    "itl": "ITL",
    "e2e": "E2E",
    "e2e_per_token": "E2E / token",
    "encode_queue": "encode queue",
    "prefill_queue": "prefill queue",
    "decode_queue": "decode queue",
    "transfer_seconds": "transfers",
}
"""Latencies, by their name in a summary."""
GROWS = "grows"
"""Stands for a figure that would only tell how long the trace is."""
UNKNOWN = "unknown"
"""Stands for one that a client could not see."""
_WIDE = 1000


def fitting(
    console: Console, columns: Mapping[str, int], make: Callable[[Sequence[str]], Table]
) -> tuple[Table, str]:
    """The table with as many of its columns as fit, and which were left out: the highest numbers first."""
    from rich.measure import Measurement

    kept = list(columns)
    for name in sorted(columns, key=lambda name: -columns[name]):
        needs = Measurement.get(console, console.options.update(max_width=_WIDE), make(kept)).maximum
        if needs <= console.width:
            break
        kept.remove(name)
    left_out = [heading(name) for name in columns if name not in kept]
    return make(kept), f"Left out for want of width: {', '.join(left_out)}." if left_out else ""


def heading(statistic: str) -> str:
    """A statistic as people write it: `P99`, `mean`."""
    return statistic.upper() if statistic[:1] == "p" and statistic[1:2].isdigit() else statistic


def grid() -> Table:
    """Lines with a name in front."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold cyan", no_wrap=True)
    return table


def headed(name: str, headings: Sequence[str]) -> Table:
    """A table of figures, one line a thing.

    Args:
        name: heading of the first column, which names them.
        headings: of the other columns.
    """
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 0, 0, 1),
        pad_edge=False,
        header_style="bold cyan",
    )
    table.add_column(name)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
