"""What a prediction rests on and how sure it is, in two or three lines below the tables of a run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from triptych.report.format import number, percent, seconds
from triptych.report.layout import GROWS

if TYPE_CHECKING:
    from rich.console import Console

_IN_A_LINE = 2
_NAMES = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E"}


def print_prediction(meta: Mapping[str, Any], console: Console, growing: Collection[str] = ()) -> None:
    """Prints what `simulate` says of its own prediction, where it says it.

    Args:
        meta: of the run.
        console: to print to.
        growing: latencies whose figures would only tell how long the trace is: they have no interval.
    """
    for line in prediction_lines(meta, growing):
        console.print(line, highlight=False, soft_wrap=True)


def prediction_lines(meta: Mapping[str, Any], growing: Collection[str] = ()) -> list[str]:
    """The lines, without any if a run says nothing of it."""
    lines = []
    shares = meta.get("predicted_from") or {}
    calibrated = ", calibrated to a measured run" if meta.get("calibrated") else ""
    at_hand = ", ".join(meta.get("profiles_at_hand", ()))
    to_measure = meta.get("to_measure", ())
    if shares.get("roofline") == 1.0:
        alone = (
            calibrated or f" alone{'' if to_measure else ': a profile of the device makes it more certain'}"
        )
        lines.append(f"predicted from the roofline{alone}")
    elif shares:
        rests = ", ".join(f"{percent(share)} {name}" for name, share in shares.items())
        measured = f"; profile {at_hand}, measured on this machine" if at_hand else ""
        lines.append(f"predicted time rests on: {rests}{calibrated}{measured}")
    lines += [f"this machine has no profile that fits; to measure one: {command}" for command in to_measure]
    interval = meta.get("interval")
    if interval:
        parts = [
            f"{name} mean {GROWS if metric in growing else f'{seconds(low)} to {seconds(high)}'}"
            for metric, name in _NAMES.items()
            if metric in interval
            for low, high in [interval[metric]["mean"]]
        ]
        if "output_tokens" in interval:
            low, high = interval["output_tokens"]["rate"]
            parts.append(f"{number(low)} to {number(high)} output tokens/s")
        head = f"{percent(interval['level'])} interval  "
        for start in range(0, len(parts), _IN_A_LINE):
            lines.append(head + ", ".join(parts[start : start + _IN_A_LINE]))
            head = " " * len(head)
    return lines
