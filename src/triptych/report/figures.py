"""The figure of a comparison: every request predicted against measured, and the distributions of both.

Needs the extra [figures]: matplotlib, and SciencePlots for its style.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from triptych.record.logs import Floats
from triptych.report.compare import METRICS, Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_TITLE = "Predicted against measured"
_STYLE = ["science", "no-latex", "bright"]
_NAMES = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E"}
_INCHES = (7.2, 4.8)
_POINTS = 8
"""Of all text."""
_DPI = 200
_SIZES = dict.fromkeys(
    (
        "font.size",
        "axes.labelsize",
        "xtick.labelsize",
        "ytick.labelsize",
        "legend.fontsize",
        "figure.titlesize",
    ),
    _POINTS,
)
_BAND = 0.1
"""Of the measured time: what the band around equality shows."""
_MARGIN = 1.25
"""By which the axes go beyond the values."""
_ONE_DECADE, _DECADES = 6.0, 500.0
"""Ratios of the ends of an axis from which on it has ticks at 1, 3, 10, and at powers of ten alone."""
_DENSE = 2000
"""Requests from which on markers are small and faint."""


def draw(comparisons: Sequence[Comparison], title: str = _TITLE) -> Figure:
    """The figure of one experiment, with the requests of all its repetitions.

    Args:
        comparisons: one a repetition.
        title: of one line or several: model, device and load.

    Raises:
        ModuleNotFoundError: matplotlib or SciencePlots is not installed.
    """
    import matplotlib
    import matplotlib.style
    import scienceplots  # noqa: F401 - makes its styles known
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.style.context([*_STYLE, _SIZES]):
        # Named, for the colours of a style are otherwise looked up when the style is gone.
        colours: list[str] = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
        figure = Figure(figsize=_INCHES, layout="constrained")
        FigureCanvasAgg(figure)
        axes: Any = figure.subplots(2, len(METRICS))
        for column, metric in enumerate(METRICS):
            pairs = [comparison.pair(metric) for comparison in comparisons]
            both = [np.concatenate([np.empty(0), *side]) for side in zip(*pairs, strict=True)]
            scale, unit = _unit(both)
            predicted, measured = (scale * side for side in both)
            label = f"{_NAMES[metric]} ({unit})"
            _scatter(axes[0, column], label, predicted, measured, colours[0])
            _distributions(axes[1, column], label, predicted, measured, colours[1])
        above, below = (axes[row, 0].get_legend_handles_labels() for row in (0, 1))
        head = figure.legend(*above, loc="outside upper center", ncols=3, title=title)
        head.get_title().set(multialignment="center", fontweight="bold")
        figure.legend(*below, loc="outside lower center", ncols=2)
    return figure


def save(figure: Figure, path: Path) -> list[Path]:
    """Writes it as PDF and as PNG, with these suffixes in place of the path's own; returns the files."""
    files = [path.with_suffix(suffix) for suffix in (".pdf", ".png")]
    for file in files:
        figure.savefig(file, dpi=_DPI)
    return files


def _unit(sides: Sequence[Floats]) -> tuple[float, str]:
    """What to multiply seconds by so that the axes have short numbers, and the unit that they then have."""
    longest = max((float(side.max()) for side in sides if len(side)), default=1.0)
    return (1.0, "s") if longest >= 2 else (1e3, "ms")


def _scatter(axes: Axes, label: str, predicted: Floats, measured: Floats, colour: str) -> None:
    """One marker a request, on the logarithmic scale on which equal distances are equal ratios."""
    positive = (predicted > 0) & (measured > 0)
    predicted, measured = predicted[positive], measured[positive]
    axes.set(xlabel=f"measured {label}", ylabel=f"predicted {label}", xscale="log", yscale="log")
    axes.set_box_aspect(1)
    if not len(measured):
        return
    both = np.concatenate([predicted, measured])
    ends = np.array([both.min() / _MARGIN, both.max() * _MARGIN])
    axes.fill_between(
        ends, ends * (1 - _BAND), ends * (1 + _BAND), color="0.85", linewidth=0, label=r"within $\pm$10 %"
    )
    dense = len(measured) > _DENSE
    axes.plot(
        measured,
        predicted,
        linestyle="none",
        marker="o",
        markersize=1.5 if dense else 3.0,
        markerfacecolor="none",
        markeredgewidth=0.6,
        alpha=0.4 if dense else 0.8,
        color=colour,
        label="a request",
        rasterized=dense,
    )
    axes.plot(ends, ends, color="black", linewidth=0.8, label="equal")
    axes.set(xlim=ends, ylim=ends)
    for axis in (axes.xaxis, axes.yaxis):
        _plain_ticks(axis, float(ends[1] / ends[0]))


def _plain_ticks(axis: Axis, ratio: float) -> None:
    """Numbers as people write them, as many as there is room for on a logarithmic axis of that ratio."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

    if ratio < _ONE_DECADE:
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    else:
        axis.set_major_locator(LogLocator(subs=(1, 3) if ratio < _DECADES else (1,)))
    axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_formatter(NullFormatter())


def _distributions(axes: Axes, label: str, predicted: Floats, measured: Floats, colour: str) -> None:
    """Steps: the share of requests that took no longer."""
    axes.set(xlabel=label, ylabel="share of requests", ylim=(0, 1.02))
    if len(measured):
        axes.ecdf(measured, label="measured", color="black", linestyle="-", linewidth=1.0)
        axes.ecdf(predicted, label="predicted", color=colour, linestyle="--", linewidth=1.4)
    axes.set_xlim(left=0)
