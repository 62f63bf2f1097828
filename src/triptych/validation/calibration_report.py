"""A calibration as a person makes it: fits it, writes the file, prints what was found."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triptych.report.format import number, percent, seconds
from triptych.report.results import check_json_target, console_beside, write_json
from triptych.report.table import without_trailing_blanks
from triptych.spec.base import SpecError
from triptych.spec.calibration import Calibration
from triptych.validation.calibrate import Calibrated, calibrate

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_SECONDS = {
    "iteration": "host time of every iteration",
    "sequence": "of every sequence that gets a token",
    "image": "of every image encoded",
    "front_end": "client sends, until a scheduler sees it",
    "front_end_image": "more of it for every image",
    "answer": "iteration ends, until the client has it",
}
_FACTORS = {
    "matmul": "times predicted matrix products",
    "attention": "times predicted attention",
    "memory": "norms, activations, embeddings, sampler",
    "network": "times predicted collectives",
}
_SIDES = tuple(
    (name if side == "before" else "", side)
    for name in ("median", "mean", "in all")
    for side in ("before", "after")
)
"""Headings of the columns of errors, in two lines."""


def calibrate_and_report(
    run: Path, deployment: Path, *, out: Path, clients: Sequence[Path] = (), json: str | None = None
) -> None:
    """Calibrates, writes the file, prints coefficients and errors.

    Args:
        run: as of `calibrate`.
        deployment: likewise.
        out: YAML file; an earlier calibration in its place is replaced.
        clients: as of `calibrate`.
        json: file for coefficients and errors; -: standard output, without tables; None: neither.

    Raises:
        SpecError: as of `calibrate`; or there is something at `out` that is no calibration, or it cannot be
            written.
    """
    check_target(out)
    check_json_target(json)
    found = calibrate(run, deployment, clients=clients)
    write_calibration(found.calibration, out)
    write_json(as_dict(found), json)
    console = console_beside(json)
    print_calibration(found, console)
    console.print(f"\nwritten to {out}: name it as calibration in the deployment", highlight=False)


def as_dict(found: Calibrated) -> dict[str, Any]:
    """Coefficients, what they were fitted to and the errors, as plain data."""
    return {
        "calibration": found.calibration.model_dump(mode="json"),
        "batches": found.batches,
        "errors": [asdict(error) for error in found.errors],
        "notes": list(found.notes),
    }


def check_target(file: Path) -> None:
    """Sees to it, before any work is done, that no other file is lost.

    Raises:
        SpecError: there is something at `file` that is no calibration.
    """
    if not file.exists():
        return
    try:
        Calibration.load(file)
    except SpecError:
        problem = "holds something that is no calibration and will not be overwritten; name another file"
        raise SpecError("--out", problem, file=file) from None


def write_calibration(calibration: Calibration, file: Path) -> None:
    """Whole or not at all; folders above it are made.

    Raises:
        SpecError: it cannot be written.
    """
    new = file.with_name(f".{file.name}.{os.getpid()}.new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(calibration.to_yaml(), encoding="utf-8")
        new.replace(file)
    except OSError as error:
        with suppress(OSError):
            new.unlink()
        raise SpecError("--out", f"cannot be written: {error.strerror}; name another", file=file) from None


def print_calibration(found: Calibrated, console: Console) -> None:
    """Prints each coefficient with what it means, the errors before and after, and what has to be known."""
    from rich.markup import escape

    with without_trailing_blanks(console):
        console.print()
        console.print(_coefficients(found), highlight=False)
        basis = ", ".join(found.calibration.profiles or ()) or "none: data sheets"
        console.print(f"profiles that factors are relative to: {escape(basis)}", highlight=False)
        console.print()
        console.print(_errors(found), highlight=False)
        console.print(
            f"Of batches held out, before and after calibration; {found.batches:,} others were fitted.",
            style="dim italic",
            highlight=False,
        )
        for note in found.notes:
            console.print(f"[bold yellow]note[/]  {escape(note)}", highlight=False)


def _coefficients(found: Calibrated) -> Table:
    calibration, fit = found.calibration, found.fit
    told = {name for name in _FACTORS if name not in fit.absent + fit.small}
    waits = found.delays
    told |= {"iteration", "sequence", *(["image"] if fit.images else [])}
    told |= {"front_end", "answer"} if waits is not None else set()
    told |= {"front_end_image"} if waits is not None and waits.front_end_image is not None else set()
    table = _table("coefficient", "value", "unit")
    table.add_column("what it is", style="dim")

    def add(name: str, value: float, shown: Callable[[float], str], unit: str, meaning: str) -> None:
        text, unit = (shown(value), unit) if name in told else ("-", "")
        if unit == "s":
            text, _, unit = text.rpartition(" ")
        table.add_row(name, text, unit, meaning)

    for name, meaning in _SECONDS.items():
        add(name, getattr(calibration, name), seconds, "s", meaning)
    for name, meaning in _FACTORS.items():
        add(name, getattr(calibration.factors, name), number, "x", meaning)
    told |= {"link_share"} if found.transfers else set()
    add("link_share", calibration.link_share, percent, "", "of bandwidth between pools, what is had")
    return table


def _errors(found: Calibrated) -> Table:
    sides = (f"{name}\n{side}" for name, side in _SIDES)
    table = _table("error", "batches", *sides)
    for error in found.errors:
        cells = [f"{error.batches:,}"]
        for name in ("median", "mean", "total"):
            before, after = getattr(error.before, name), getattr(error.after, name)
            sign = "" if name == "median" else "+"
            cells += [f"{before * 100:{sign}.1f}%", f"{after * 100:{sign}.1f}%"]
        table.add_row(error.kind, *cells)
    return table


def _table(name: str, *headings: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 0, 0, 2), pad_edge=False, header_style="bold cyan"
    )
    table.add_column(name)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "unit" else "right", no_wrap=True)
    return table
