"""Block hashes: equal where prompts are known to be equal up to the block's end, and nowhere else."""

from __future__ import annotations

import subprocess
import sys
from itertools import takewhile

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from triptych.workload.blocks import block_hashes

Prompt = list[int]

prompts = st.lists(st.integers(0, 2), min_size=0, max_size=8)
"""What each stretch of a prompt says; few values, so that prompts often begin alike."""
sizes = st.integers(1, 24)


def chained(prompt: Prompt) -> list[int]:
    """Ids as traces have them: one for each different beginning of a prompt."""
    ids, beginning = [], 0
    for stretch in prompt:
        beginning = beginning * 3 + stretch + 1
        ids.append(beginning)
    return ids


def hashes(ids: list[int], id_tokens: int, block: int, tokens: int | None = None) -> tuple[int, ...]:
    length = len(ids) * id_tokens if tokens is None else tokens
    return block_hashes(np.array(ids, dtype=np.int64), id_tokens, block, length)


def alike(a: Prompt, b: Prompt) -> int:
    """Stretches that two prompts have in common at the beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


@given(a=prompts, b=prompts, id_tokens=sizes, block=sizes)
def test_hashes_are_equal_just_where_the_ids_say_that_prompts_are(
    a: Prompt, b: Prompt, id_tokens: int, block: int
) -> None:
    one, two = (hashes(chained(prompt), id_tokens, block) for prompt in (a, b))
    same = alike(a, b) * id_tokens // block
    assert one[:same] == two[:same]
    assert not set(one[same:]) & set(two[same:])
    assert not set(one[same:]) & set(two[:same])


@given(prompt=prompts, id_tokens=sizes, block=sizes, tokens=st.integers(0, 300))
def test_every_full_block_that_ids_cover_has_a_hash_of_its_own(
    prompt: Prompt, id_tokens: int, block: int, tokens: int
) -> None:
    drawn = hashes(chained(prompt), id_tokens, block, tokens)
    assert len(drawn) == min(len(prompt) * id_tokens, tokens) // block
    assert len(set(drawn)) == len(drawn)


@given(prompt=prompts, more=prompts, id_tokens=sizes, block=sizes)
def test_a_longer_prompt_keeps_the_hashes_of_its_beginning(
    prompt: Prompt, more: Prompt, id_tokens: int, block: int
) -> None:
    short = hashes(chained(prompt), id_tokens, block)
    assert hashes(chained(prompt + more), id_tokens, block)[: len(short)] == short


@given(ids=st.lists(st.integers(0, 2**42 - 1), min_size=1, max_size=20, unique=True))
def test_ids_of_any_size_do_not_collide(ids: list[int]) -> None:
    drawn = [value for prefix in ids for value in hashes([prefix], 16 * 50, 16)]
    assert len(set(drawn)) == 50 * len(ids)


def test_a_block_takes_the_id_that_reaches_its_end() -> None:
    """Blocks of 4 over ids of 6 tokens: the second block ends in the second id's stretch."""
    one, two = hashes([1, 2], 6, 4), hashes([1, 3], 6, 4)
    assert len(one) == 3
    assert [a == b for a, b in zip(one, two, strict=True)] == [True, False, False]


def test_negative_ids_are_as_good_as_others() -> None:
    assert len(set(hashes([-1, 5], 8, 4)) | set(hashes([1, 5], 8, 4))) == 6


def test_another_process_has_the_same_hashes() -> None:
    script = (
        "import numpy as np; from triptych.workload.blocks import block_hashes;"
        "print(block_hashes(np.array([7, 8]), 32, 16, 64))"
    )
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(hashes([7, 8], 32, 16))
