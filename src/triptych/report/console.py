"""A simulation as a person runs it: progress while it works, tables when it is done, Ctrl-C at any time."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from triptych.record.folder import check_target, write_run
from triptych.record.metrics import summarise
from triptych.record.run import BatchLog
from triptych.report.format import seconds
from triptych.report.perfetto import write_trace
from triptych.report.prediction import print_prediction
from triptych.report.results import check_json_target, console_beside, write_json
from triptych.report.table import print_summary
from triptych.simulation import simulate
from triptych.spec.base import SpecError

_SECONDS_BETWEEN_UPDATES = 0.1


def simulate_and_report(
    deployment: Path,
    workload: Path,
    overrides: Sequence[str],
    *,
    out: Path | None,
    batches: BatchLog,
    trace: bool,
    jump: bool,
    interval: bool,
    json: str | None = None,
) -> bool:
    """Simulates, prints the tables and writes the run folder.

    Returns:
        Whether the run came to its end; False if it was interrupted, and what was finished has been kept.

    Raises:
        SpecError: something declared is wrong, `out` holds something that is no run or cannot be written, or
            a trace is asked for without it.
    """
    if out is not None:
        check_target(out)
    elif trace:
        raise SpecError("--trace", "there is no folder for trace.json; add --out")
    check_json_target(json)
    console = console_beside(json)
    with _interrupts() as interrupted, _progress() as bar:
        task = bar.add_task("simulating", total=None, rate="")
        began = shown = time.monotonic()
        most = 0

        def progress(done: int, total: int, virtual: float) -> bool:
            nonlocal began, shown, most
            now = time.monotonic()
            if done < most:
                bar.reset(task, description="again, for the interval")
                began = shown = now
            most = done
            if now - shown > _SECONDS_BETWEEN_UPDATES:
                shown = now
                rate = f"{done / (now - began):,.0f} requests/s, at {seconds(virtual)} of virtual time"
                bar.update(task, completed=done, total=total, rate=rate)
            return not interrupted

        run = simulate(
            deployment, workload, overrides=overrides, jump=jump, interval=interval, progress=progress
        )
    summary = summarise(run)
    if out is not None:  # before anything is printed: what is printed to may be gone
        write_run(run, out, batches=batches, summary=summary, trace=write_trace if trace else None)
    write_json(summary.to_dict(), json)
    print_summary(summary, console)
    overload = summary.overload
    growing = overload.metrics if overload is not None and overload.certain else ()
    print_prediction(summary.meta, console, growing)
    if out is not None:
        console.print(f"run record in {out}", highlight=False)
    return not run.interrupted and not interrupted


def _progress() -> Progress:
    """A bar on standard error, gone when it is done; nothing at all where that is no terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Collects interrupts instead of being torn apart by them; a second one stops at once."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield caught
    finally:
        signal.signal(signal.SIGINT, before)
