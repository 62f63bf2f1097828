"""What a bench tells beside the tables of every run: whether the client kept its promises; sweeps."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from triptych.bench.sweep import Point, Sweep
from triptych.record import Summary
from triptych.report.format import count, number, percent, seconds
from triptych.report.table import without_trailing_blanks

_LATE = 0.01
"""Seconds of lateness (P99) from which on arrivals are not those of the workload any more."""
_BUSY = 0.8
"""Of one core: a client as busy as this may measure itself."""


def print_client(summary: Summary, console: Console) -> None:
    """Prints what the client saw of itself, and what was not as the workload says."""
    meta, late = summary.meta, summary.meta["lateness"]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold cyan", no_wrap=True)
    if late["p99"] is not None:
        times = ", ".join(f"{name.upper()} {seconds(late[name])}" for name in ("p50", "p99"))
        table.add_row("lateness", f"{times}, maximum {seconds(late['max'])}")
    table.add_row("client", f"busy {percent(meta['client_cpu_share'])} of a core")
    for warning in _warnings(summary):
        table.add_row("[bold yellow]note[/]", warning)
    with without_trailing_blanks(console):
        console.print()
        console.print(table, highlight=False)


def _warnings(summary: Summary) -> list[str]:
    meta = summary.meta
    warnings = []
    late = meta["lateness"]["p99"]
    if late is not None and late > _LATE:
        warnings.append(
            f"1 % of the requests were sent {seconds(late)} or more after they were due: this machine has "
            "other work too, or is too slow for the rate. Latencies count from when a request was sent"
        )
    if meta["client_cpu_share"] > _BUSY:
        warnings.append("the client itself is near its limit, and part of the latencies is its own")
    if meta["prompts_mismatched"]:
        compared = count(meta["prompts_compared"], "prompt")
        warnings.append(
            f"the server counted {meta['prompts_mismatched']:,} of {compared} otherwise than planned, "
            f"by {meta['prompt_tokens_off_by']:+.3g} tokens on average"
        )
    if meta["outputs_mismatched"]:
        warnings.append(f"{count(meta['outputs_mismatched'], 'answer')} had another length than asked for")
    for metric, answers in meta["unknown"].items():
        warnings.append(
            f"the {metric.upper()} of {count(answers, 'answer')} is not known: tokens came without text"
        )
    warnings += [f"{times:,} x {what}" for what, times in meta["errors"].items()]
    return warnings


def print_sweep(sweep: Sweep, console: Console) -> None:
    """Prints a row a rate, and the capacity."""
    table = Table(box=None, padding=(0, 0, 0, 2), pad_edge=False, header_style="bold cyan")
    headings = ("rate", "served/s", "goodput/s", "tokens/s", "TTFT P50", "P99", "TPOT P50", "P99")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("keeps up", no_wrap=True)
    points = sorted(sweep.points, key=lambda point: point.rate)
    for point in points:
        table.add_row(*_row(point), "no" if point.problem else "yes")
    with without_trailing_blanks(console):
        console.print()
        console.print(table, highlight=False)
        console.print()
        for point in points:
            if point.problem:
                console.print(
                    f"{number(point.rate)} requests/s: {point.problem}", markup=False, highlight=False
                )
        if sweep.hopeless:
            console.print("[bold]no rate can be kept up with[/]", highlight=False)
            console.print(sweep.hopeless, markup=False, highlight=False)
        elif sweep.capacity is None:
            console.print("no rate that was tried is kept up with", highlight=False)
        else:
            console.print(f"keeps up with [bold]{number(sweep.capacity)} requests/s[/]", highlight=False)


def _row(point: Point) -> list[str]:
    rates, latency = point.summary.throughput, point.summary.latency
    return [
        number(point.rate),
        number(rates.qps),
        number(rates.goodput),
        number(rates.output_tokens),
        seconds(latency["ttft"].p50),
        seconds(latency["ttft"].p99),
        seconds(latency["tpot"].p50),
        seconds(latency["tpot"].p99),
    ]
