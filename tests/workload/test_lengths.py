"""How long prompts and outputs are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from triptych.spec.workload import Caps, WorkloadSpec
from triptych.spec.yaml import parse_yaml
from triptych.workload.lengths import cut_to_caps, draw_lengths
from triptych.workload.streams import stream

N = 200_000
CHAT = Path(__file__).parents[2] / "examples/workloads/chat.yaml"


@pytest.fixture
def draw(declare: Callable[..., WorkloadSpec]) -> Callable[..., np.ndarray[Any, np.dtype[np.int64]]]:
    def drawn(**spec: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
        return draw_lengths(declare(prompt=spec).prompt, np.ones(N, np.int64), stream(7, "prompt"))

    return drawn


Draw = Callable[..., np.ndarray[Any, np.dtype[np.int64]]]


def test_fixed_lengths_are_all_the_same(draw: Draw) -> None:
    assert set(draw(kind="fixed", tokens=512)) == {512}


def test_uniform_lengths_reach_both_ends_and_are_as_likely(draw: Draw) -> None:
    counts = np.bincount(draw(kind="uniform", low=3, high=6))
    assert counts[:3].tolist() == [0, 0, 0]
    np.testing.assert_allclose(counts[3:], N / 4, rtol=0.02)
    assert len(counts) == 7


def test_log_normal_has_its_mean_or_its_median(draw: Draw) -> None:
    by_mean = draw(kind="log-normal", mean=1000, sigma=0.7)
    by_median = draw(kind="log-normal", median=1000, sigma=0.7)
    assert by_mean.mean() == pytest.approx(1000, rel=0.01)
    assert np.median(by_median) == pytest.approx(1000, rel=0.01)
    assert np.log(by_median).std() == pytest.approx(0.7, rel=0.01)


def test_log_normal_is_moved_into_its_limits(draw: Draw) -> None:
    drawn = draw(kind="log-normal", median=100, sigma=2, low=20, high=400)
    assert (drawn.min(), drawn.max()) == (20, 400)


def test_lengths_are_at_least_one_token(draw: Draw) -> None:
    assert draw(kind="log-normal", median=1, sigma=3).min() == 1


def test_quantiles_come_back(draw: Draw) -> None:
    drawn = draw(kind="quantiles", values={"p0": 10, "p50": 100, "p90": 1000, "p100": 2000})
    assert np.quantile(drawn, [0.5, 0.9]) == pytest.approx([100, 1000], rel=0.02)
    assert (drawn.min(), drawn.max()) == (10, 2000)


def test_quantiles_are_joined_by_straight_lines(draw: Draw) -> None:
    drawn = draw(kind="quantiles", values={"p0": 100, "p50": 300, "p100": 300})
    assert np.quantile(drawn, 0.25) == pytest.approx(200, rel=0.02)
    assert (drawn == 300).mean() == pytest.approx(0.5, abs=0.01)


AZURE_CONVERSATIONS = {
    # mean, P50, P90, P99 of the 19,366 requests of AzurePublicDataset's conversation trace of 2023
    "prompt": (1155, 1020, 2735, 4142),
    "output": (211, 129, 424, 601),
}


@pytest.mark.parametrize("part", ["prompt", "output"])
def test_the_chat_example_is_as_long_as_the_azure_trace(draw: Draw, part: str) -> None:
    mean, *percentiles = AZURE_CONVERSATIONS[part]
    drawn = draw(**parse_yaml(CHAT.read_text())[part])
    assert drawn.mean() == pytest.approx(mean, rel=0.015)
    assert np.percentile(drawn, [50, 90, 99]) == pytest.approx(percentiles, rel=0.01)


@pytest.mark.parametrize(
    ("caps", "cut"),
    [
        ({}, (900, 300)),
        ({"prompt": 500}, (500, 300)),
        ({"output": 50}, (900, 50)),
        ({"total": 1000}, (900, 100)),
        ({"total": 901}, (900, 1)),
        ({"total": 400}, (399, 1)),
        ({"prompt": 500, "output": 200, "total": 600}, (500, 100)),
    ],
    ids=str,
)
def test_what_is_over_a_cap_is_cut(caps: dict[str, int], cut: tuple[int, int]) -> None:
    prompt, output = cut_to_caps(Caps.parse(caps), np.array([900]), np.array([300]))
    assert (prompt[0], output[0]) == cut
