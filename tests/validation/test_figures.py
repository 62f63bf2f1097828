"""The figure says what it shows, also without colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from triptych.report.compare import Comparison, Outcome, compare
from triptych.report.figures import draw, save

pytest.importorskip("scienceplots")

METRICS = ("TTFT", "TPOT", "E2E")


def comparison(count: int, seconds: float = 0.1) -> Comparison:
    random = np.random.default_rng(1)
    measured = {name.lower(): seconds * random.lognormal(size=count) for name in METRICS}
    predicted = {name: values * 1.05 for name, values in measured.items()}
    return compare(Outcome(predicted), Outcome(measured))


def test_requests_of_all_repetitions_are_in_it() -> None:
    above = draw([comparison(30), comparison(20)]).axes[0]
    markers = next(line for line in above.lines if line.get_linestyle() == "None")
    assert len(markers.get_xdata()) == 50
    assert markers.get_ydata() == pytest.approx(1.05 * np.asarray(markers.get_xdata()))


def test_axes_have_units_that_keep_numbers_short() -> None:
    quick, slow = draw([comparison(30, 0.1)]).axes, draw([comparison(30, 10.0)]).axes
    for axes, unit in ((quick, "ms"), (slow, "s")):
        for number, metric in enumerate(METRICS):
            assert axes[number].get_xlabel() == f"measured {metric} ({unit})"
            assert axes[number].get_ylabel() == f"predicted {metric} ({unit})"
            assert axes[number + 3].get_xlabel() == f"{metric} ({unit})"
            assert axes[number + 3].get_ylabel() == "share of requests"


def test_ratios_are_distances_and_equality_is_the_diagonal() -> None:
    for axes in draw([comparison(30)]).axes[:3]:
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        assert axes.get_xlim() == axes.get_ylim()


def test_predicted_and_measured_differ_without_colour() -> None:
    for axes in draw([comparison(30)]).axes[3:]:
        assert {line.get_label(): line.get_linestyle() for line in axes.lines} == {
            "measured": "-",
            "predicted": "--",
        }


def test_markers_are_what_the_legend_says_they_are() -> None:
    figure = draw([comparison(30)])
    shown = next(line for line in figure.legends[0].get_lines() if line.get_label() == "a request")
    assert {axes.lines[0].get_marker() for axes in figure.axes[:3]} == {shown.get_marker()}


@pytest.mark.parametrize(("given", "shown"), [((), "Predicted against measured"), (("a\nb",), "a\nb")])
def test_it_has_a_title_above_all_axes(given: tuple[str, ...], shown: str) -> None:
    figure = draw([comparison(30)], *given)
    figure.canvas.draw()
    title = figure.legends[0].get_title()
    assert title.get_text() == shown
    assert title.get_window_extent().y0 > max(axes.get_window_extent().y1 for axes in figure.axes)


@pytest.mark.parametrize("load", [False, True])
def test_no_legend_lies_over_an_axis(load: bool) -> None:
    figure = draw([comparison(30)], "a model on a device\nload 0.5" if load else "a model on a device")
    figure.canvas.draw()
    for legend in figure.legends:
        assert not any(legend.get_window_extent().overlaps(axes.get_window_extent()) for axes in figure.axes)


@pytest.mark.parametrize("count", [0, 1, 5000])
def test_it_is_written_as_pdf_and_png(count: int, tmp_path: Path) -> None:
    files = save(draw([comparison(count)], "a title"), tmp_path / "load-0.5.png")
    assert [file.suffix for file in files] == [".pdf", ".png"]
    assert files[0].read_bytes().startswith(b"%PDF")
    assert files[1].read_bytes().startswith(b"\x89PNG")
