"""A bench as a person runs it: progress while it works, tables when it is done, Ctrl-C at any time."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from triptych.bench.api import Progress as OnProgress
from triptych.bench.api import bench
from triptych.bench.files import check_sweep_target, sweep_as_dict, write_bench, write_sweep
from triptych.bench.interrupts import Interrupts
from triptych.bench.server import Server
from triptych.bench.sweep import Point, Sweep, sweep
from triptych.bench.tables import print_client, print_sweep
from triptych.record import summarise
from triptych.record.folder import check_target
from triptych.report.format import seconds
from triptych.report.results import check_json_target, console_beside, write_json
from triptych.report.table import print_summary


def bench_and_report(
    workload: Path,
    server: Server,
    overrides: Sequence[str],
    *,
    out: Path | None,
    warmup: int,
    json: str | None = None,
) -> bool:
    """Drives a server, prints the tables and writes the run folder.

    Returns:
        Whether the run came to its end; False if it was interrupted, and what was finished has been kept.

    Raises:
        SpecError: something declared is wrong, the server cannot be reached or refuses, or `out` holds
            something that is no run or cannot be written.
    """
    if out is not None:
        check_target(out)
    check_json_target(json)
    console = console_beside(json)
    with _watched("benching") as watch:
        run = bench(workload, server, overrides=overrides, warmup=warmup, progress=watch(""))
    summary = summarise(run)
    if out is not None:  # before anything is printed: what is printed to may be gone
        write_bench(run, out, summary)
    write_json(summary.to_dict(), json)
    print_summary(summary, console)
    print_client(summary, console)
    if out is not None:
        console.print(f"run record in {out}", highlight=False)
    return not run.interrupted


def sweep_and_report(
    workload: Path,
    server: Server,
    overrides: Sequence[str],
    *,
    start: float,
    out: Path | None,
    warmup: int,
    json: str | None = None,
) -> bool:
    """Sweeps the rate, prints the table and writes a run folder for each rate, and `sweep.json`.

    Returns:
        Whether it came to its end.

    Raises:
        SpecError: as `bench_and_report`, or the workload has no rate.
    """
    if out is not None:
        check_sweep_target(out)
    check_json_target(json)
    points: list[Point] = []
    stopped = False

    def done(point: Point) -> None:
        points.append(point)
        if out is not None:
            write_sweep(Sweep(tuple(points)), out)

    with _watched("sweeping") as watch:

        def progress(rate: float) -> OnProgress:
            inner = watch(f"at {rate:.3g} requests/s, " if rate else "one after the other, ")

            def noted(ended: int, total: int, elapsed: float) -> bool:
                nonlocal stopped
                going_on = inner(ended, total, elapsed)
                stopped = stopped or not going_on
                return going_on

            return noted

        result = sweep(
            workload, server, start, overrides=overrides, warmup=warmup, progress=progress, done=done
        )
    if out is not None and result.hopeless:
        write_sweep(result, out)
    write_json(sweep_as_dict(result), json)
    print_sweep(result, console_beside(json))
    return not stopped


@contextmanager
def _watched(what: str) -> Iterator[_Watch]:
    """A progress bar on standard error, if that is a terminal; Ctrl-C ends the run, a second one at once."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    interrupts = Interrupts()
    before = signal.signal(signal.SIGINT, interrupts.note)
    try:
        with bar:
            yield _Watch(bar, what, interrupts)
        interrupts.check()
    finally:
        signal.signal(signal.SIGINT, before)


class _Watch:
    def __init__(self, bar: Progress, what: str, interrupts: Interrupts) -> None:
        self._bar, self._interrupts = bar, interrupts
        self._task = bar.add_task(what, total=None, note="")

    def __call__(self, prefix: str) -> OnProgress:
        def progress(ended: int, total: int, elapsed: float) -> bool:
            note = f"{prefix}{seconds(elapsed)}"
            self._bar.update(self._task, completed=ended, total=total, note=note)
            return not self._interrupts.count

        return progress
