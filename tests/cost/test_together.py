"""Several prompt chunks in one launch: what they share and what they add."""

from __future__ import annotations

import numpy as np
import pytest
from tests.profiles.data import DATA, published

from triptych.cost.loads import Floats
from triptych.cost.together import Together, fit_together
from triptych.profiles import Profile
from triptych.profiles.readers.aiconfigurator import read_aiconfigurator

KNOWN = Together(floor=9e-6, per_query=7e-9, per_pair=2.5e-11)
PER_KEY = 13e-9
"""Seconds a key of the path through one tile."""
NO_WINDOW = np.zeros(1)


def launch(prompts: Floats, queries: Floats, history: Floats) -> Floats:
    """Seconds of a device that is just as the fit takes devices to be."""
    work = queries * (KNOWN.per_query + KNOWN.per_pair * (history + queries / 2))
    return KNOWN.floor + np.maximum(PER_KEY * (history + queries), prompts * work)


def product(*sizes: list[int]) -> list[Floats]:
    return [axis.reshape(-1).astype(np.float64) for axis in np.meshgrid(*sizes, indexing="ij")]


@pytest.mark.parametrize("prompts", [[1], [1, 4, 32]], ids=["one chunk of many sizes", "several chunks"])
def test_what_a_launch_takes_is_found_again(prompts: list[int]) -> None:
    sizes = product(prompts, [16, 64, 256, 1024, 4096], [0, 512, 8192])
    found = fit_together(*sizes, NO_WINDOW, launch(*sizes))
    assert found.floor == pytest.approx(KNOWN.floor, rel=0.01)
    assert found.per_query == pytest.approx(KNOWN.per_query, rel=0.05)
    assert found.per_pair == pytest.approx(KNOWN.per_pair, rel=0.02)


def test_one_wild_measurement_moves_little() -> None:
    sizes = product([1, 8], [64, 256, 1024, 4096], [0, 512, 8192])
    seconds = launch(*sizes)
    seconds[5] *= 3
    assert fit_together(*sizes, NO_WINDOW, seconds).per_pair == pytest.approx(KNOWN.per_pair, rel=0.05)


def test_within_a_window_a_tile_has_few_keys_and_what_grows_is_work() -> None:
    prompts, queries, history = product([1], [16, 64, 256, 1024, 4096, 16384], [0])
    work = queries * 9e-9
    seconds = 9e-6 + np.maximum(PER_KEY * np.minimum(queries, 128), work)
    found = fit_together(prompts, queries, history, np.array([128.0]), seconds)
    assert found.per_query == pytest.approx(9e-9, rel=0.05)
    many = found.equal(seconds[-1:], np.array([8.0]), queries[-1:], history[-1:])
    assert many == pytest.approx(9e-6 + 8 * work[-1], rel=0.05)


def test_one_measurement_is_enough_to_begin_with() -> None:
    found = fit_together(*(np.array([each]) for each in (1.0, 512.0, 0.0, 0.0, 1e-4)))
    assert found.equal(np.array([1e-4]), *(np.array([each]) for each in (1.0, 512.0, 0.0))) == [1e-4]


def test_a_chunk_alone_stays_as_it_was_measured() -> None:
    alone = np.array([5e-6, 20e-6, 9e-4])  # one below the floor
    sizes = (np.array([16.0, 512.0, 4096.0]), np.array([0.0, 128.0, 0.0]))
    np.testing.assert_array_equal(KNOWN.equal(alone, np.ones(3), *sizes), alone)


@published
def test_launches_of_many_prompts_are_foretold_from_those_of_a_few() -> None:
    """Batches of 1, 4 and 32 prompts teach; those of 2, 8, 16, 64 and 128 are judged."""
    folder = DATA / "aic_h100/operators/h100_sxm/vllm_0.19.0"
    profile = read_aiconfigurator(folder / "context_attention_perf.parquet")
    rows = profile.of(heads=32, kv_heads=8, head_dim=128, window=0, kv_precision="bf16")
    few = np.isin(rows.columns["prompts"], (1, 4, 32))
    known = fit_together(*sizes_of(rows.select(few)), NO_WINDOW, rows.select(few).columns["seconds"])
    alone = rows.of(prompts=1).columns
    judged = rows.select(~few & (rows.columns["units"] > 128))
    prompts, queries, history = sizes_of(judged)
    order = np.argsort(alone["units"])
    single = np.interp(queries, alone["units"][order], alone["seconds"][order])
    errors = known.equal(single, prompts, queries, history) / judged.columns["seconds"] - 1
    assert np.median(np.abs(errors)) < 0.02
    assert np.percentile(np.abs(errors), 90) < 0.06


def sizes_of(rows: Profile) -> list[Floats]:
    return [rows.columns[name].astype(np.float64) for name in ("prompts", "units", "history")]
