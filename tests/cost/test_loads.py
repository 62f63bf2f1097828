"""What the attention of a batch's chunks works on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from triptych.cost.loads import prefill_sizes

from .shapes import batch

chunks = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 60), st.booleans()), min_size=1, max_size=5)


def test_pairs_and_kv_of_two_chunks_by_hand() -> None:
    two = batch((3, 0, True), (2, 5, False))
    # 1 + 2 + 3 pairs; 6 + 7 pairs. KV: 3; 5 + 2.
    assert prefill_sizes(two) == (5, 6 + 13, 3 + 7)


def test_a_window_clips_what_each_query_sees() -> None:
    one = batch((4, 5, True))
    # queries at 6, 7, 8, 9 tokens of context see 6, 7, 7, 7 of them; the first key read is the first
    assert prefill_sizes(one, window=7) == (4, 27, 9)
    # and with a window of 3: four times 3, and of 9 tokens the last 6
    assert prefill_sizes(one, window=3) == (4, 12, 6)


@given(chunks, st.integers(1, 120))
def test_sizes_are_the_sum_over_single_queries(
    given_chunks: list[tuple[int, int, bool]], window: int
) -> None:
    queries, pairs, kv = prefill_sizes(batch(*given_chunks), window)
    seen = [[range(max(0, h + i - window), h + i) for i in range(1, q + 1)] for q, h, _ in given_chunks]
    assert queries == sum(len(of_chunk) for of_chunk in seen)
    assert pairs == sum(len(keys) for of_chunk in seen for keys in of_chunk)
    assert kv == sum(len(set().union(*of_chunk)) for of_chunk in seen)
