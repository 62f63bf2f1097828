"""The columns of requests: they check themselves, and rows can be taken out of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from triptych.spec.lengths import MOST_TOKENS
from triptych.spec.workload import MOST_PIXELS
from triptych.workload.requests import Requests, RowError


def ints(*values: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(values, dtype=np.int64)


@pytest.fixture
def requests() -> Requests:
    """Three requests with two, no and one image, and with no, two and one prefix id."""
    return Requests(
        arrival=np.array([0.0, 1.0, 1.0]),
        text_tokens=ints(20, 40, 60),
        output_tokens=ints(1, 2, 3),
        patience=np.array([np.inf, 5.0, 0.5]),
        gives_up_by_abort=np.array([False, False, True]),
        image_offsets=ints(0, 2, 2, 3),
        image_width=np.array([64, 32, 16], dtype=np.int32),
        image_height=np.array([65, 33, 17], dtype=np.int32),
        image_content=ints(7, 8, 7),
        prefix_offsets=ints(0, 0, 2, 3),
        prefix_ids=ints(10, 11, 12),
        prefix_block_tokens=16,
    )


def test_rows_keep_their_images_and_prefixes(requests: Requests) -> None:
    taken = requests.take(ints(0, 2))
    assert taken.arrival.tolist() == [0, 1]
    assert taken.image_offsets.tolist() == [0, 2, 3]
    assert taken.image_width.tolist() == [64, 32, 16]
    assert taken.prefix_offsets.tolist() == [0, 0, 1]
    assert taken.prefix_ids.tolist() == [12]


def test_rows_may_be_repeated_at_other_times(requests: Requests) -> None:
    taken = requests.take(ints(2, 1, 2), np.array([3.0, 4.0, 5.0]))
    assert taken.arrival.tolist() == [3, 4, 5]
    assert taken.image_counts.tolist() == [1, 0, 1]
    assert taken.image_content.tolist() == [7, 7]
    assert taken.prefix_ids.tolist() == [12, 10, 11, 12]


def test_no_rows_are_no_requests(requests: Requests) -> None:
    assert len(requests.take(slice(0))) == 0


def test_a_request_without_ids_shares_nothing(requests: Requests) -> None:
    assert requests.block_hashes(0, 4, 500) == ()


def test_images_after_the_prefix_share_nothing(requests: Requests) -> None:
    """The id of request 2 covers 16 tokens; its 60 tokens of text are followed by those of an image."""
    assert len(requests.block_hashes(2, 4, 500)) == 4
    short = replace(requests, text_tokens=ints(20, 40, 9))
    assert len(short.block_hashes(2, 4, 500)) == 2


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"arrival": np.array([0.0, 2.0, 1.0])}, "row 2, arrival: comes before the row above"),
        ({"arrival": np.array([-1.0, 0, 1])}, "row 0, arrival: must be 0 or later, not -1"),
        ({"text_tokens": ints(1, 0, 1)}, "row 1, text_tokens: must be at least 1, not 0"),
        ({"output_tokens": ints(1, 1, 0)}, "row 2, output_tokens: must be at least 1, not 0"),
        (
            {"text_tokens": ints(1, MOST_TOKENS + 1, 1)},
            "row 1, text_tokens: must be at most 10000000, not 10000001",
        ),
        (
            {"output_tokens": ints(1, 1, 2**62)},
            "row 2, output_tokens: must be at most 10000000, not 4.61",
        ),
        ({"patience": np.array([np.nan, 1, 1])}, "row 0, patience: must be 0 or more, not nan"),
        (
            {"image_width": np.array([1, 1, 0], dtype=np.int32)},
            "row 2, image_width: must be at least 1, not 0",
        ),
        (
            {"image_height": np.array([1, MOST_PIXELS, MOST_PIXELS + 1], dtype=np.int32)},
            "row 2, image_height: must be at most 100000, not 100001",
        ),
    ],
)
def test_a_row_that_makes_no_sense_is_named(
    requests: Requests, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(RowError, match=problem):
        replace(requests, **changes)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"text_tokens": ints(1, 2)}, r"text_tokens must be int64\[3\], not int64\(2,\)"),
        ({"text_tokens": np.ones(3)}, r"text_tokens must be int64\[3\], not float64\(3,\)"),
        ({"image_offsets": ints(0, 2, 2, 4)}, "image_offsets must rise from 0 to 3"),
        ({"prefix_offsets": ints(0, 2, 1, 3)}, "prefix_offsets must rise from 0 to 3"),
        ({"prefix_block_tokens": 0}, "prefix ids need prefix_block_tokens"),
        ({"concurrency": 0}, "concurrency must be at least 1"),
    ],
)
def test_columns_that_do_not_fit_together_are_refused(
    requests: Requests, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        replace(requests, **changes)
