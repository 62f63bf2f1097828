"""The tables of a fidelity run, in a terminal and as a document with figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cases.case import Refused
from triptych.report.compare import Outcome, compare
from triptych.report.figures import draw, save

if TYPE_CHECKING:
    from fidelity import Result

_UNITS = {"ttft": "s", "tpot": "ms", "e2e": "s", "output_tokens_per_s": "1/s"}
_NAMES = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E", "output_tokens_per_s": "output tokens/s"}
_BEGIN, _END = "<!-- written by benchmarks/fidelity.py: begin -->", "<!-- end -->"


def print_tables(
    results: Sequence[Result],
    bare: Sequence[Result],
    calibrated: Sequence[Result],
    refused: Sequence[Refused],
    rows: Sequence[dict[str, Any]],
) -> None:
    """Prints what `write_document` writes, as plain text."""
    for title, lines in _sections(results, bare, calibrated, refused, rows):
        print(f"\n{title}\n")
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        texts = _texts(lines)
        for line in lines:
            cells = (
                cell.ljust(width) if text else cell.rjust(width)
                for cell, width, text in zip(line, widths, texts, strict=True)
            )
            print("  ".join(cells).rstrip())


def write_document(
    folder: Path,
    results: Sequence[Result],
    bare: Sequence[Result],
    calibrated: Sequence[Result],
    refused: Sequence[Refused],
    rows: Sequence[dict[str, Any]],
) -> None:
    """Puts the tables between the marks of `fidelity.md`, and the figures beside it."""
    document = folder / "fidelity.md"
    text = document.read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    parts = []
    for title, lines in _sections(results, bare, calibrated, refused, rows):
        parts += [f"### {title}", "", *_markdown(lines), ""]
    for result in results:
        if result.case.measured:
            name = "fidelity-" + result.case.name.lower().replace("/", "-").replace(".", "")
            predicted = Outcome({metric: result.run.column(metric) for metric in ("ttft", "tpot", "e2e")})
            comparison = compare(predicted, Outcome(dict(result.case.measured)))
            paths = save(draw([comparison], result.case.name), folder / "figures" / name)
            picture = next(path for path in paths if path.suffix == ".png")
            for path in paths:
                if path != picture:
                    path.unlink()
            parts += [f"![{result.case.name}]({picture.relative_to(folder).as_posix()})", ""]
    document.write_text("\n".join([before + _BEGIN, "", *parts, _END + after]), encoding="utf-8")


def _sections(
    results: Sequence[Result],
    bare: Sequence[Result],
    calibrated: Sequence[Result],
    refused: Sequence[Refused],
    rows: Sequence[dict[str, Any]],
) -> Iterable[tuple[str, list[list[str]]]]:
    for result in results:
        own = [row for row in rows if row["case"] == result.case.name]
        yield result.case.name, _case_table(result, own)
    if bare:
        yield "vLLM on H100, closed loops: error of mean TPOT", _loops_table(bare, calibrated)
    if refused:
        lines = [["runs that Triptych cannot predict", "how many", "why"]]
        yield "Left out", lines + [[each.name, str(each.count), each.reason] for each in refused]


def _case_table(result: Result, rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    lines = [["", "predicted", "measured", "error", "best published"]]
    for row in rows:
        if row["statistic"] == "mean distance":
            lines.append([f"{row['metric']}: mean distance", f"{row['predicted']:.1f}", "", "", ""])
            continue
        metric, statistic = row["metric"], row["statistic"]
        shown = {"rate": "", "mean": " mean"}.get(statistic, f" {statistic.upper()}")
        name = _NAMES.get(metric, metric) + shown
        other = result.case.others.get(f"{metric}.{statistic}")
        cells = (_value(metric, row[side]) for side in ("predicted", "measured"))
        lines.append([name, *cells, _percent(row["error"]), _percent(other)])
    return lines


def _loops_table(bare: Sequence[Result], calibrated: Sequence[Result]) -> list[list[str]]:
    """Median, mean and 90th percentile of the absolute errors, by model and parallelism."""
    lines = [
        ["model, format, TP", "runs", "kernels alone", "with host time", "mean", "P90", "bias", "fitted"]
    ]
    groups: dict[str, list[tuple[float, float, Any]]] = {}
    for without, result in zip(bare, calibrated, strict=True):
        measured = result.case.measured["tpot"][0]
        errors = [float(each.latency("tpot").mean() / measured - 1) for each in (without, result)]
        entry = (errors[0], errors[1], result.calibration)
        groups.setdefault(" ".join(result.case.name.split()[:3]), []).append(entry)
    groups["all with host time"] = [each for group in groups.values() for each in group if each[2]]
    for name, group in groups.items():
        if not group:
            continue
        kernels, found = (np.array([each[place] for each in group]) for place in (0, 1))
        host = group[0][2]
        fitted = ""
        if host is not None and not name.startswith("all"):
            fitted = f"{host.iteration * 1e3:.2f} ms + {host.sequence * 1e6:.0f} us a request"
        lines.append(
            [
                name,
                str(len(group)),
                f"{np.median(np.abs(kernels)):.1%}",
                "" if host is None else f"{np.median(np.abs(found)):.1%}",
                f"{np.mean(np.abs(found)):.1%}",
                f"{np.percentile(np.abs(found), 90):.1%}",
                f"{np.mean(found):+.1%}",
                fitted,
            ]
        )
    return lines


def _texts(lines: Sequence[Sequence[str]]) -> list[bool]:
    """Which columns hold words rather than figures: they begin at the left."""
    columns = zip(*lines[1:], strict=True)
    return [not all(cell[:1] in "+-0123456789" for cell in column) for column in columns]


def _markdown(lines: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---" if text else "---:" for text in _texts(lines)]
    return [f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:])]


def _value(metric: str, value: float | None) -> str:
    if value is None:
        return ""
    unit = _UNITS.get(metric)
    if unit == "ms":
        return f"{value * 1e3:.2f} ms"
    if unit == "s":
        return f"{value:.3f} s"
    return f"{value:,.1f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:+.1%}"
