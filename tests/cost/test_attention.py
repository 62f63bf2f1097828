"""Measured attention: its grids, and the progressions that decode iterations form on them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.cost.attention import AttentionTable, Grid
from triptych.cost.source import INTERPOLATED, MEASURED, ROOFLINE
from triptych.cost.together import Together
from triptych.policy.batch import Batch, Chunk
from triptych.policy.request import Request

QUERIES, HISTORY = np.array([16.0, 64.0, 256.0]), np.array([0.0, 128.0, 1024.0])
SEQUENCES, KV = np.array([1.0, 4.0, 16.0]), np.array([16.0, 64.0, 512.0])


def grid(*knots: np.ndarray, seed: int = 0) -> Grid:
    """Random times that rise with every size."""
    shape = [len(each) for each in knots]
    seconds = np.random.default_rng(seed).uniform(1e-6, 2e-6, shape)
    for axis in range(len(knots)):
        seconds = np.cumsum(seconds, axis=axis)
    low, high = (np.array([each[end] for each in knots]) for end in (0, -1))
    return Grid(knots, seconds, low, high)


TABLE = AttentionTable(
    grid(QUERIES, HISTORY),
    grid(SEQUENCES, KV, seed=1),
    grid(QUERIES, HISTORY, SEQUENCES, KV, seed=2),
    unequal=0.1,
    layers=3,
    together=Together(floor=0.8e-6, per_query=2e-9, per_pair=5e-12),
)
APART = AttentionTable(
    grid(QUERIES, HISTORY),
    grid(SEQUENCES, KV, seed=1),
    None,
    unequal=0.0,
    layers=3,
    together=Together(floor=0.8e-6, per_query=2e-9, per_pair=5e-12),
)
CHUNKS_APART = AttentionTable(
    grid(QUERIES, HISTORY), grid(SEQUENCES, KV, seed=1), None, unequal=0.0, layers=3, together=None
)


def decoding(sequences: int, total: int, longest: int = 0) -> Batch:
    return Batch((), sequences, total, 100, longest_kv=longest)


def prompt(tokens: int, history: int, sequences: int = 0, total: int = 0, longest: int = 0) -> Batch:
    chunk = Chunk(Request(id=0, prompt_tokens=4096, output_tokens=1), tokens, history, False)
    return Batch([chunk], sequences, total, longest_kv=longest)


def test_knots_are_what_was_measured() -> None:
    assert APART.run(decoding(4, 4 * 64))[0] == pytest.approx(3 * APART.grids[1].seconds[1, 1])
    assert APART.run(prompt(64, 128))[0] == pytest.approx(3 * APART.grids[0].seconds[1, 1])
    joint = TABLE.grids[2]
    assert joint is not None
    assert TABLE.run(prompt(64, 128, 4, 4 * 64))[0] == pytest.approx(3 * joint.seconds[1, 1, 1, 1])


def test_launched_apart_they_add_up() -> None:
    both = APART.run(prompt(64, 128, 4, 4 * 64))[0]
    assert both == pytest.approx(APART.run(prompt(64, 128))[0] + APART.run(decoding(4, 4 * 64))[0])


def test_chunks_that_are_launched_apart_add_up() -> None:
    long, short, decodes = prompt(200, 128), prompt(30, 700), decoding(4, 4 * 64)
    batch = Batch([*long.chunks, *short.chunks], 4, 4 * 64)
    alone = [CHUNKS_APART.run(each)[0] for each in (long, short, decodes)]
    assert CHUNKS_APART.run(batch)[0] == pytest.approx(sum(alone))
    assert APART.run(batch)[0] < sum(alone)


sizes = st.lists(st.tuples(st.integers(1, 400), st.integers(0, 2000)), min_size=1, max_size=6)


@given(sizes, st.integers(0, 20))
def test_a_launch_of_several_chunks_takes_between_the_longest_and_all_of_them(
    given_sizes: list[tuple[int, int]], sequences: int
) -> None:
    alone = [prompt(*size) for size in given_sizes]
    batch = Batch([*(each.chunks[0] for each in alone)], sequences, 64 * sequences)
    beside = [Batch(each.chunks, sequences, 64 * sequences) for each in alone]
    for table in (TABLE, APART):
        times = [table.run(each)[0] for each in alone]
        decoding_beside = table.run(beside[int(np.argmax(times))])[0] - max(times)
        seconds = table.run(batch)[0] - decoding_beside
        assert max(times) * (1 - 1e-9) <= seconds <= sum(times) * (1 + 1e-9)
        assert seconds <= CHUNKS_APART.run(Batch(batch.chunks))[0] * (1 + 1e-9)


def test_chunks_that_fill_the_device_share_what_a_launch_takes_anyway() -> None:
    def of(count: int) -> float:
        return APART.run(Batch(prompt(64, 128).chunks * count))[0]

    work = 3 * 64 * (2e-9 + 5e-12 * (128 + 32))
    assert of(100) - of(99) == pytest.approx(work)
    assert of(100) == pytest.approx(3 * 0.8e-6 + 100 * work)
    assert of(2) == of(1)  # both together do not fill it


@given(sequences=st.integers(1, 40), mean=st.integers(8, 700), more=st.integers(0, 400))
def test_iterations_that_repeat_form_the_progression_that_is_promised(
    sequences: int, mean: int, more: int
) -> None:
    total, longest = sequences * mean, mean + more
    seconds, growth, valid = TABLE.run(decoding(sequences, total, longest))
    for step in range(min(valid, 50)):
        then = decoding(sequences, total + step * sequences, longest + step)
        assert TABLE.run(then)[0] == pytest.approx(seconds + step * growth, rel=1e-9)


@given(
    queries=st.integers(1, 400),
    history=st.integers(0, 2000),
    sequences=st.integers(1, 40),
    mean=st.integers(8, 700),
    chunks=st.integers(1, 4),
)
def test_rows_of_the_log_are_timed_as_batches_are(
    queries: int, history: int, sequences: int, mean: int, chunks: int
) -> None:
    """Up to the lengths of chunks, of which the log has only the sums."""
    batch = Batch(prompt(queries, history).chunks * chunks, sequences, sequences * mean)
    sizes = (batch.prefill_tokens, batch.prefill_pairs - batch.prefill_tokens / 2, chunks, sequences, mean)
    for table in (TABLE, CHUNKS_APART):
        seconds, _ = table.of_rows(*(np.array([float(size)]) for size in sizes))
        assert seconds[0] == pytest.approx(table.run(batch)[0], rel=1e-9)


def test_unequal_contexts_take_part_of_the_way_to_the_longest() -> None:
    equal, long = TABLE.run(decoding(4, 4 * 64))[0], TABLE.run(decoding(4, 4 * 512))[0]
    assert TABLE.run(decoding(4, 4 * 64, 512))[0] == pytest.approx(equal + 0.1 * (long - equal))


def test_what_a_time_rests_on() -> None:
    sizes = np.array([[4.0, 64.0], [5.0, 64.0], [4.0, 600.0]])
    assert APART.grids[1].source(sizes).tolist() == [MEASURED, INTERPOLATED, ROOFLINE]
    none, crossed = np.zeros(2), 64.0 * (128 + 32)
    launches = (np.array([64.0, 128.0]), np.array([crossed, 2 * crossed]), np.array([1.0, 2.0]), none, none)
    assert APART.of_rows(*launches)[1].tolist() == [MEASURED, INTERPOLATED]
    assert CHUNKS_APART.of_rows(*launches)[1].tolist() == [MEASURED, MEASURED]
