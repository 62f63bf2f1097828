"""The summary of a run as terminal tables, which fit where they are printed and read as well in a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from triptych.record.summary import Overload, PhaseQueue, PoolUsage, Summary
from triptych.report.bounds import SLO_COLUMNS, slo_note, slo_table
from triptych.report.format import NONE, count, dollars, number, percent, scaled, seconds
from triptych.report.layout import GROWS, METRICS, UNKNOWN, fitting, grid, headed, heading
from triptych.spec.deployment import PHASES

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

_STATISTICS = {"mean": 3, "p50": 0, "p90": 2, "p95": 4, "p99": 1, "p99.9": 5}
_POOL_COLUMNS = {
    "busy": 0,
    "batch": 1,
    "tokens": 5,
    "KV use": 2,
    "MFU": 3,
    "MBU": 4,
    "energy": 7,
    "$/h": 6,
}
"""Columns, and in which order they are left out where they do not fit: the highest number first."""
_MEMORY_COLUMNS = {"weights": 0, "KV": 1, "KV tokens": 3, "requests": 2}
_POOL_WIDTH = 18
"""Longer names of pools and devices are broken: the figures are worth more."""
_WAITS = {
    "system": "the requests under way grow",
    "embeddings": "the queue of embeddings to be sent grows",
}
"""What grows, where it is not the queue of a phase."""
_OVERLOADED = "Overloaded: what grows is as long as the trace lets it become."
_UNSETTLED = "Latencies had not settled when the last request came: a longer trace may have others."
_MEMORY_NOTE = "Of one instance. requests: average ones of this workload that its KV holds."
_POOL_NOTE = "batch, tokens: of a mean iteration. KV use: mean/peak. KV, MFU, MBU: while busy."


def print_summary(summary: Summary, console: Console) -> None:
    """Prints what an engineer wants to see of a run at a glance."""
    with without_trailing_blanks(console):
        _print_parts(summary, console)


@contextmanager
def without_trailing_blanks(console: Console) -> Iterator[None]:
    """While something is printed: where that is no terminal, no line ends in the blanks that fill a table."""
    if console.is_terminal:
        yield
        return
    with console.capture() as captured:
        yield
    lines = captured.get().splitlines()
    console.out("\n".join(line.rstrip() for line in lines), highlight=False)


def _print_parts(summary: Summary, console: Console) -> None:
    if summary.overload is not None:
        gave_up = summary.counts.aborted + summary.counts.timed_out > 0
        _print(console, _overload(summary.overload, gave_up=gave_up))
    _print(console, _headline(summary))
    latencies, left_out = fitting(console, _STATISTICS, lambda names: _latencies(summary, names))
    sure = summary.overload is not None and summary.overload.certain
    said = _OVERLOADED if sure else "" if summary.settled else _UNSETTLED
    if latencies.row_count:  # no request got so far as to have one
        _print(console, latencies, said, left_out)
    if summary.pools:
        pools, left_out = fitting(console, _POOL_COLUMNS, lambda names: _pools(summary.pools, names))
        _print(console, pools, _POOL_NOTE, left_out)
        memory, left_out = fitting(console, _MEMORY_COLUMNS, lambda names: _memory(summary.pools, names))
        _print(console, memory, _MEMORY_NOTE, left_out)
    for note in summary.meta.get("notes", ()):
        console.print(f"note: {note}", style="yellow", highlight=False)
    if summary.slo:
        bounds, left_out = fitting(console, SLO_COLUMNS, lambda names: slo_table(summary.slo, names))
        _print(console, bounds, slo_note(summary.slo), left_out)


def _print(console: Console, part: RenderableType, *notes: str) -> None:
    console.print()
    console.print(part, highlight=False)
    for note in filter(None, notes):
        console.print(note, style="dim italic", highlight=False)


def _overload(overload: Overload, *, gave_up: bool) -> str:
    grows = " and ".join(_grows_by(queue) for queue in overload.queues)
    drain = overload.drain_seconds
    left = f" Working off what the last arrival leaves takes {seconds(drain)}." if drain is not None else ""
    verdict = "[bold red]OVERLOADED[/]" if overload.certain else "[bold yellow]PERHAPS OVERLOADED[/]"
    sure = "more than 99.9%" if overload.sure > 0.999 else percent(overload.sure)
    can = "are served or give up" if gave_up else "can be served"  # a queue loses requests in both ways
    rates = f"{number(overload.arrival_rate)} requests/s come, {number(overload.served_rate)}/s {can}"
    return f"{verdict}  {rates} ({sure} sure): {grows}.{left}"


def _grows_by(queue: PhaseQueue) -> str:
    who = _WAITS.get(queue.phase, f"the {queue.phase} queue grows")
    return f"{who} by {number(queue.growth)} requests/s"


def _headline(summary: Summary) -> Table:
    counts, rates, cost = summary.counts, summary.throughput, summary.cost
    table = grid()
    ends = [
        f"{amount:,} {name}"
        for name, amount in (
            ("aborted", counts.aborted),
            ("timed out", counts.timed_out),
            ("rejected", counts.rejected),
            ("unfinished", counts.unfinished),
        )
        if amount
    ]
    if summary.interrupted:
        came = f", {count(counts.never_came, 'request')} never came" if counts.never_came else ""
        ends.append(f"interrupted{came}")
    whole = f"{counts.finished:,} of {count(counts.requests, 'request')} finished"
    table.add_row("requests", ", ".join([f"{whole} in {seconds(summary.horizon)}", *ends]))
    details = []
    if counts.rejected and summary.producer != "bench":  # whose notes have the server's words
        table.add_row("", "rejected: " + ", ".join(f"{n:,} {why}" for why, n in counts.rejected_as.items()))
    if held := summary.meta.get("held_back"):
        waited = f", {seconds(held['mean_seconds'])} on average" if held["requests"] else ""
        details.append(f"{count(held['requests'], 'request')} waited at the client{waited} (max_concurrency)")
    if counts.preemptions:
        details.append(count(counts.preemptions, "preemption"))
    if counts.cached_tokens:
        details.append(f"{percent(counts.cached_share)} of prompt tokens from cache")
    if details:
        table.add_row("", ", ".join(details))
    table.add_row(
        "throughput",
        f"[bold]{number(rates.qps)} requests/s[/], {number(rates.output_tokens)} output tokens/s, "
        f"{number(rates.total_tokens)} tokens/s",
    )
    images = f" ({counts.image_tokens:,} from images)" if counts.image_tokens else ""
    table.add_row("tokens", f"{counts.prompt_tokens:,} prompt{images}, {counts.output_tokens:,} output")
    if rates.goodput is not None:
        share = percent(rates.goodput_share)
        table.add_row("goodput", f"[bold]{number(rates.goodput)} requests/s[/] within the SLO ({share})")
    if cost is not None:
        table.add_row(
            "cost",
            f"{dollars(cost.dollars_per_hour)}/h, "
            f"[bold]{dollars(cost.dollars_per_million_output_tokens)}[/] per million output tokens, "
            f"{number(cost.qps_per_dollar_hour)} QPS per $/h",
        )
        per_token = scaled(cost.joules_per_output_token, "J")
        table.add_row("energy", f"{scaled(cost.energy_joules, 'J')}, {per_token} per output token")
    return table


def _latencies(summary: Summary, statistics: Sequence[str]) -> Table:
    table = headed("latency", [heading(name) for name in statistics])
    table.columns[0].no_wrap = True
    overload = summary.overload
    growing = overload.metrics if overload is not None and overload.certain else ()
    for name, label in METRICS.items():
        values = summary.latency[name]
        # Times that are zero throughout belong to phases or transfers that the deployment does not have.
        if values.count and values.max:
            grows = name in growing
            cells = [GROWS if grows else seconds(values.at(statistic)) for statistic in statistics]
            table.add_row(label, *cells, style="dim" if grows else None)
        elif name in summary.meta.get("unknown", ()):
            table.add_row(label, *[UNKNOWN] * len(statistics), style="dim")
    return table


def _pools(pools: tuple[PoolUsage, ...], columns: Sequence[str]) -> Table:
    table = headed("pool", columns)
    table.columns[0].max_width = _POOL_WIDTH
    table.columns[0].overflow = "fold"
    for pool in pools:
        use = pool.usage
        phases = "" if pool.phases == (pool.pool,) else f"{_phases(pool)}\n"
        kv = f"{percent(use.kv_mean_share)}/{percent(use.kv_peak_share)}"
        cells = {
            "busy": percent(use.busy_share),
            "batch": number(use.mean_batch),
            "tokens": number(use.tokens_per_iteration or None),
            "KV use": NONE if use.kv_mean_share is None else kv,
            "MFU": percent(use.mfu),
            "MBU": percent(use.mbu),
            "energy": scaled(use.energy_joules, "J"),
            "$/h": number(use.dollars_per_hour),
        }
        table.add_row(
            f"{pool.pool}\n[dim]{phases}{_devices(pool)}[/]", *(cells[column] for column in columns)
        )
    return table


def _memory(pools: tuple[PoolUsage, ...], columns: Sequence[str]) -> Table:
    table = headed("memory", columns)
    table.columns[0].max_width = _POOL_WIDTH
    table.columns[0].overflow = "fold"
    for pool in pools:
        cells = {
            "weights": f"{number(pool.weights_bytes / 2**30)} GiB",
            "KV": f"{number(pool.kv_bytes / 2**30)} GiB" if pool.kv_tokens else NONE,
            "KV tokens": f"{pool.kv_tokens:,}" if pool.kv_tokens else NONE,
            "requests": number(pool.requests_that_fit),
        }
        table.add_row(pool.pool, *(cells[column] for column in columns))
    return table


def _phases(pool: PoolUsage) -> str:
    return "all phases" if len(pool.phases) == len(PHASES) else "+".join(pool.phases)


def _devices(pool: PoolUsage) -> str:
    each = pool.usage.devices // pool.instances
    return f"{pool.instances} x {pool.device}" if each == 1 else f"{pool.instances} x {each} {pool.device}"
