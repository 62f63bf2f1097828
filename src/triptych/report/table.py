"""The summary of a run as terminal tables, which fit in 80 columns and read as well in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from triptych.record.summary import Overload, PoolUsage, SloResult, Summary
from triptych.report.format import NONE, count, dollars, number, percent, scaled, seconds

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

_STATISTICS = ("mean", "p50", "p90", "p95", "p99", "p99.9")
_METRICS = {
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

_GROWS = "grows"
_OVERLOADED = "Overloaded: what grows is as long as the trace lets it become."
_POOL_COLUMNS = "batch, tokens: of a mean iteration. KV use: mean/peak. KV, MFU, MBU: while busy."


def print_summary(summary: Summary, console: Console) -> None:
    """Prints what an engineer wants to see of a run at a glance."""
    if summary.overload is not None:
        _print(console, _overload(summary.overload))
    _print(console, _headline(summary))
    _print(console, _latencies(summary), note=_OVERLOADED if summary.overload is not None else "")
    if summary.pools:
        _print(console, _pools(summary.pools), note=_POOL_COLUMNS)
    if summary.slo:
        _print(console, _slo(summary.slo, _growing(summary.overload)))


def _print(console: Console, part: RenderableType, note: str = "") -> None:
    console.print()
    console.print(part, highlight=False)
    if note:
        console.print(note, style="dim italic", highlight=False)


def _overload(overload: Overload) -> str:
    grows = " and ".join(
        f"the {queue.phase} queue grows by {number(queue.growth)} requests/s" for queue in overload.queues
    )
    drain = overload.drain_seconds
    left = f" Working off what the last arrival leaves takes {seconds(drain)}." if drain is not None else ""
    return (
        f"[bold red]OVERLOADED[/]  {number(overload.arrival_rate)} requests/s come, "
        f"{number(overload.served_rate)}/s are served: {grows}.{left}"
    )


def _headline(summary: Summary) -> Table:
    counts, rates, cost = summary.counts, summary.throughput, summary.cost
    table = _grid()
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
        ends.append("interrupted")
    whole = f"{counts.finished:,} of {count(counts.requests, 'request')} finished"
    table.add_row("requests", ", ".join([f"{whole} in {seconds(summary.horizon)}", *ends]))
    details = []
    if counts.rejected:
        table.add_row("", "rejected: more KV or image embeddings than an instance can ever hold")
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


def _latencies(summary: Summary) -> Table:
    table = _table("latency", [name.upper() if name != "mean" else name for name in _STATISTICS])
    growing = _growing(summary.overload)
    for name, label in _METRICS.items():
        values = summary.latency[name]
        # Times that are zero throughout belong to phases or transfers that the deployment does not have.
        if values.count and values.max:
            grows = name in growing
            cells = [_GROWS if grows else seconds(values.at(statistic)) for statistic in _STATISTICS]
            table.add_row(label, *cells, style="dim" if grows else None)
    return table


def _growing(overload: Overload | None) -> set[str]:
    """Latencies that would only tell how long the trace is: those that a growing queue is part of."""
    if overload is None:
        return set()
    phases = {queue.phase for queue in overload.queues}
    before_first_token = {"ttft"} if phases & {"encode", "prefill"} else set()
    return {"e2e", "e2e_per_token"} | before_first_token | {f"{phase}_queue" for phase in phases}


def _pools(pools: tuple[PoolUsage, ...]) -> Table:
    headings = ["busy", "batch", "tokens", "KV use", "MFU", "MBU", "energy", "$/h"]
    table = _table("pool", headings)
    for pool in pools:
        use = pool.usage
        phases = "" if pool.phases == (pool.pool,) else f"{'+'.join(pool.phases)}\n"
        kv = f"{percent(use.kv_mean_share)}/{percent(use.kv_peak_share)}"
        table.add_row(
            f"{pool.pool}\n[dim]{phases}{_devices(pool)}[/]",
            percent(use.busy_share),
            number(use.mean_batch),
            number(use.tokens_per_iteration or None),
            NONE if use.kv_peak_share is None else kv,
            percent(use.mfu),
            percent(use.mbu),
            scaled(use.energy_joules, "J"),
            number(use.dollars_per_hour),
        )
    return table


def _devices(pool: PoolUsage) -> str:
    each = pool.usage.devices // pool.instances
    return f"{pool.instances} x {pool.device}" if each == 1 else f"{pool.instances} x {each} {pool.device}"


def _slo(results: tuple[SloResult, ...], growing: set[str]) -> Table:
    table = _grid()
    for number_, result in enumerate(results):
        verdict = "[green]met[/]" if result.met else "[bold red]MISSED[/]"
        table.add_row(
            "" if number_ else "SLO",
            f"{_METRICS[result.metric]} {result.statistic.upper() if result.statistic != 'mean' else 'mean'}",
            _GROWS if result.metric in growing else seconds(result.value),
            f"<= {seconds(result.bound)}",
            verdict,
            f"{percent(result.share)} of requests within",
        )
    return table


def _grid() -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold cyan", no_wrap=True)
    return table


def _table(name: str, headings: list[str]) -> Table:
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
