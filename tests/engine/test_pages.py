"""Where pages lie: each request finds what it wrote, side by side wherever nobody else is in the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.engine.pages import Pages
from triptych.policy import KVCache, Request

SIZE = 4


@dataclass(eq=False)
class Held:
    """A request with its pages, as the engine's sequences are."""

    request: Request
    pages: list[int] = field(default_factory=list)
    shared: int = 0
    spare: tuple[int, int] = (0, 0)
    context: int = 0

    def label(self, token: int) -> object:
        """What the KV of a token depends on: for full prompt blocks the prefix, else the request itself."""
        block = token // SIZE
        hashes = self.request.block_hashes
        return (hashes[block], token) if block < len(hashes) else (id(self), token)


class Pool:
    """A policy's cache, its pages, and what stands in them."""

    def __init__(self, blocks: int, *, prefix_cache: bool = True) -> None:
        self.kv = KVCache(blocks, SIZE, prefix_cache=prefix_cache)
        self.pages = Pages(self.kv)
        self.content: list[list[object]] = [[None] * SIZE for _ in range(blocks)]
        self.held: list[Held] = []
        self.copied = 0

    def admit(self, prompt: int, output: int, *hashes: int) -> Held | None:
        """Computes a prompt; None: there is no room."""
        request = Request(0, prompt, output, block_hashes=hashes)
        hits = self.kv.match(request)
        if not self.kv.take(request, prompt, hits):
            return None
        self.kv.enter(request, prompt)
        one = Held(request)
        self.held.append(one)
        self._run(one, hits * SIZE, prompt - hits * SIZE)
        return one

    def decode(self, one: Held) -> bool:
        """Computes one token more; false: there is no room, or it is done."""
        longest = one.request.prompt_tokens + one.request.output_tokens
        if one.context >= longest or not self.kv.take(one.request, one.context + 1):
            return False
        self._run(one, one.context, 1)
        return True

    def end(self, one: Held) -> None:
        self.kv.release(one.request)
        self.pages.release(one)
        self.held.remove(one)

    def _run(self, one: Held, history: int, tokens: int) -> None:
        self.pages.settle()
        self.pages.bind(one, history, tokens)
        moves = self.pages.moves()
        self.copied += len(moves)
        before = [list(page) for page in self.content]
        for page, source in moves.items():
            self.content[page] = before[source]
        for token in range(history, history + tokens):
            self.content[one.pages[token // SIZE]][token % SIZE] = one.label(token)
        one.context = history + tokens

    def check(self) -> None:
        """Every request reads what was written for it, and the counts are those of the policy."""
        for one in self.held:
            read = [self.content[one.pages[token // SIZE]][token % SIZE] for token in range(one.context)]
            assert read == [one.label(token) for token in range(one.context)]
        assert self.pages.free == self.kv.blocks - self.kv.cached - self._private()

    def _private(self) -> int:
        return sum(len(one.pages) - one.shared for one in self.held)


def side_by_side(one: Held) -> bool:
    return all(after - page == 1 for page, after in pairwise(one.pages))


@given(
    blocks=st.integers(6, 24),
    prefix_cache=st.booleans(),
    steps=st.lists(st.tuples(st.sampled_from(("admit", "decode", "decode", "end")), st.integers(0, 10**6))),
)
def test_everyone_finds_what_it_wrote(blocks: int, prefix_cache: bool, steps: list[tuple[str, int]]) -> None:
    pool = Pool(blocks, prefix_cache=prefix_cache)
    for what, drawn in steps:
        if what == "admit":
            prompt = 1 + drawn % 30
            # Few prefixes, so that many are shared: each a chain of blocks.
            prefix = drawn // 30 % 3
            hashes = [100 * prefix + block for block in range(prompt // SIZE)] if prefix_cache else []
            pool.admit(prompt, 1 + drawn % 7, *hashes)
        elif pool.held:
            one = pool.held[drawn % len(pool.held)]
            if what == "end" or not pool.decode(one):
                pool.end(one)
        pool.check()


def test_a_pool_full_of_cached_prefixes_still_lays_requests_side_by_side() -> None:
    pool = Pool(40)
    for number in range(60):
        prompt = 17 + number % 9
        one = pool.admit(prompt, 8, *(1000 * number + block for block in range(prompt // SIZE)))
        other = pool.admit(9, 8, 1000 * number + 500, 1000 * number + 501)
        assert one is not None
        assert other is not None
        for _ in range(8):
            for held in (one, other):
                assert pool.decode(held)
                assert side_by_side(held)
        pool.check()
        pool.end(one)
        pool.end(other)
    assert pool.kv.cached > 30  # it was full


def test_a_cached_prefix_that_lies_scattered_is_laid_side_by_side_for_whoever_comes_back() -> None:
    pool = Pool(12)
    first = pool.admit(3 * SIZE + 1, 4, 1, 2, 3)
    assert first is not None
    pool.end(first)
    wall = pool.admit(1, 3)  # a page in the middle of nowhere
    again = pool.admit(5 * SIZE, 8, 1, 2, 3, 4, 5)
    assert again is not None
    assert wall is not None
    assert again.shared == 5
    assert side_by_side(again)
    pool.check()


def test_who_shares_a_prefix_that_is_held_grows_elsewhere() -> None:
    """Nobody's pages move under it."""
    pool = Pool(20)
    first, second = (pool.admit(2 * SIZE + 1, 12, 1, 2) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.pages[:2] == second.pages[:2]
    for _ in range(11):
        assert pool.decode(first)
        assert pool.decode(second)
    assert side_by_side(first)
    assert second.pages[2:] == list(range(second.pages[2], second.pages[2] + len(second.pages) - 2))
    pool.check()


def test_a_free_pool_is_not_copied() -> None:
    pool = Pool(64, prefix_cache=False)
    for _ in range(4):
        one = pool.admit(10, 10)
        assert one is not None
        for _ in range(9):
            assert pool.decode(one)
    assert pool.copied == 0


def test_more_than_there_are_pages_is_no_fault_of_the_policy() -> None:
    pages = Pages(KVCache(2, SIZE))
    with pytest.raises(RuntimeError, match="more blocks than there are pages"):
        pages.bind(Held(Request(0, 12, 1)), 0, 12)
