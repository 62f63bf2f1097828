"""A validation as a person runs it: progress while it works, tables when it is done, Ctrl-C at any time."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from triptych.bench.interrupts import Interrupts
from triptych.report.figures import draw, save
from triptych.report.format import count, number, seconds
from triptych.report.results import check_json_target, console_beside, write_json
from triptych.spec.base import SpecError
from triptych.validation import files
from triptych.validation.api import validate
from triptych.validation.load import parse_loads
from triptych.validation.profiling import ProfileOnce, measure_now
from triptych.validation.result import Level, Validation
from triptych.validation.server import Interrupted
from triptych.validation.table import print_validation
from triptych.validation.watch import Progress as OnProgress

_PLAIN: dict[str, Any] = {"highlight": False, "markup": False}
"""For text with paths in it: what looks like markup is none."""
_INTERRUPTED = 130
"""As a shell reports an interrupt."""


def validate_and_report(
    deployment: Path,
    workload: Path,
    overrides: Sequence[str],
    *,
    out: Path,
    repeats: int = 3,
    load: str | None = None,
    within: float | None = None,
    measure: bool = False,
    calibrate: bool = False,
    json: str | None = None,
) -> int:
    """Validates, prints the tables, and writes records, comparison and figure.

    Args:
        deployment: YAML file.
        workload: YAML file.
        overrides: as of `validate`.
        out: folder.
        repeats: as of `validate`.
        load: shares of the capacity, as in `0.5,0.85`.
        within: percent that no mean and no P90 of a latency may be off.
        measure: whether operators are measured first where no profile of them is known.
        calibrate: as of `validate`.
        json: file for what `validation.json` holds; -: standard output, without tables; None: neither.

    Returns:
        Exit code: 0, or 1 if an error is larger than `within`, or 130 if it was interrupted.

    Raises:
        SpecError: as of `validate`.
    """
    if within is not None and not within > 0:
        raise SpecError("--within", f"must be above 0 percent, not {within:g}")
    loads = () if load is None else parse_loads(load)
    check_json_target(json)
    console = console_beside(json)
    try:
        with watched() as progress:
            found = validate(
                deployment,
                workload,
                out,
                overrides=overrides,
                repeats=repeats,
                loads=loads,
                calibrate=calibrate,
                ensure_profile=ProfileOnce(partial(say, console), measure_now if measure else None),
                progress=progress,
            )
    except (Interrupted, KeyboardInterrupt):
        say(Console(stderr=True), f"interrupted; what was measured to the end is in {out}")
        return _INTERRUPTED
    figures = draw_levels(found)
    write_json(files.as_dict(found, out), json)
    print_validation(found, console)
    say(console, f"\nrecords and comparison in {out}")
    say(console, figures)
    if within is None or found.within(within / 100):
        return 0
    worst = max(level.worst or 0.0 for level in found.levels)
    console.print(
        f"[bold red]a mean or P90 is off by {number(worst * 100)}%, more than {within:g}%[/]", highlight=False
    )
    return 1


def say(console: Console, text: str) -> None:
    """Prints a line that may hold paths."""
    console.print(text, soft_wrap=True, **_PLAIN)


def draw_levels(found: Validation) -> str:
    """Draws the figure of each level; says where they are, or what it takes to draw them."""
    drawn: list[Path] = []
    for level in found.levels:
        try:
            figure = draw(level.comparisons, _title(level, found))
        except ModuleNotFoundError as error:
            return f"no figure: it needs {error.name}; pip install 'triptych[figures]'"
        drawn += save(figure, level.folder / f"{files.COMPARISON}.png")
    return (
        f"figure in {', '.join(str(path) for path in drawn if path.suffix == '.pdf')}, and as PNG beside it"
    )


def _title(level: Level, found: Validation) -> str:
    """What was validated; below it at which load, and how often."""
    sent = count(len(level.measured[0]), "request")
    times = len(level.measured)
    how = sent if times == 1 else f"{sent} x {times} repetitions"
    if level.load is not None and found.capacity is not None:
        how = f"load {level.load:g} ({number(level.load * found.capacity)} requests/s), {how}"
    return f"{found.name}\n{how}"


@contextmanager
def watched() -> Iterator[OnProgress]:
    """A bar on standard error, if that is a terminal; Ctrl-C or SIGTERM ends all, a second at once.

    It is drawn from the first progress on, so that what is printed before stands above it.
    """
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
    task = bar.add_task("", total=None, note="")
    interrupts = Interrupts()

    def progress(what: str, ended: int, total: int, elapsed: float) -> bool:
        bar.start()
        bar.update(task, description=what, completed=ended, total=total or None, note=seconds(elapsed))
        return not interrupts.count

    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(each, interrupts.note) for each in signals]
    try:
        try:
            yield progress
        finally:
            bar.stop()
        interrupts.check()
    finally:
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)
