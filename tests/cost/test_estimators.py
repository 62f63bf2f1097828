"""Estimators: exact where measured, near between, along the roofline's slope beyond."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from triptych.cost.estimators import ESTIMATORS, Estimator, held_out
from triptych.cost.fitting import BEST, Samples, choose
from triptych.cost.loads import Floats

KINDS = list(ESTIMATORS.values())


def matmul(tokens: Floats) -> tuple[Floats, Floats]:
    """Seconds of a made-up matrix product, and of its roofline: memory-bound below 200 tokens."""
    roofline = np.maximum(40e-6, tokens * 0.2e-6)
    return roofline * (1.25 + 0.1 * np.sin(np.log(tokens))) + 3e-6, roofline


def decode(sizes: Floats) -> tuple[Floats, Floats]:
    """Seconds of made-up decode attention over (sequences, KV of each), and of its roofline."""
    roofline = 2e-6 + sizes[:, 0] * sizes[:, 1] * 2e-9
    return roofline * 1.4 + 5e-6 + sizes[:, 0] * 0.1e-6, roofline


TOKENS = np.unique(np.geomspace(1, 2048, 60).astype(int)).astype(float)
GRID = np.stack(np.meshgrid(2.0 ** np.arange(9), 16 * 2.0 ** np.arange(11), indexing="ij"), axis=-1).reshape(
    -1, 2
)


@pytest.mark.parametrize("make", KINDS)
def test_held_out_sizes_are_met(make: Callable[[], Estimator]) -> None:
    seconds, roofline = matmul(TOKENS)
    errors = held_out(make, TOKENS[:, None], roofline, seconds)
    assert errors.shape == TOKENS.shape
    assert np.median(np.abs(errors)) < 0.06


@pytest.mark.parametrize("make", KINDS)
def test_two_dimensions_are_met(make: Callable[[], Estimator]) -> None:
    seconds, roofline = decode(GRID)
    assert np.median(np.abs(held_out(make, GRID, roofline, seconds))) < 0.08


def test_interpolation_gives_back_what_was_measured_in_one_dimension() -> None:
    seconds, roofline = matmul(TOKENS)
    model = ESTIMATORS["interpolation"]().fit(TOKENS[:, None], roofline, seconds)
    np.testing.assert_allclose(model.predict(TOKENS[:, None], roofline), seconds, 1e-9)


@pytest.mark.parametrize("make", KINDS)
def test_beyond_the_measured_sizes_the_slope_is_the_rooflines(make: Callable[[], Estimator]) -> None:
    seconds, roofline = matmul(TOKENS)
    model = make().fit(TOKENS[:, None], roofline, seconds)
    far = np.array([4096.0, 8192.0, 16384.0])
    _, ideal = matmul(far)
    predicted = model.predict(far[:, None], ideal)
    np.testing.assert_allclose(predicted[1:] / predicted[:-1], 2.0, 0.1)
    assert not model.inside(far[:, None]).any()


def test_equal_sizes_are_held_out_together() -> None:
    """Otherwise a size measured twice would be known, and its error nothing."""
    tokens = np.repeat([1.0, 10.0, 100.0, 1000.0], 2)
    seconds = np.repeat([1.0, 5.0, 2.0, 9.0], 2)
    errors = held_out(ESTIMATORS["interpolation"], tokens[:, None], np.ones(8), seconds)
    assert (np.abs(errors) > 0.1).all()


def test_fewer_than_three_sizes_hold_none_out() -> None:
    with pytest.raises(ValueError, match="three"):
        held_out(ESTIMATORS["interpolation"], np.ones((5, 1)), np.ones(5), np.ones(5))
    _, errors = choose(Samples(np.ones((5, 1)), np.ones(5), np.ones(5)))
    assert len(errors) == 0


def test_the_best_is_chosen_and_can_be_forced() -> None:
    noise = np.random.default_rng(0).normal(1, 0.15, len(TOKENS))
    _, roofline = matmul(TOKENS)
    samples = Samples(TOKENS[:, None], roofline, (3e-6 + 1.25 * roofline) * noise)
    best, errors = choose(samples, BEST)
    forced, others = choose(samples, "interpolation")
    assert best.name != "interpolation"  # it follows the noise
    assert forced.name == "interpolation"
    assert np.median(np.abs(errors)) < np.median(np.abs(others))
