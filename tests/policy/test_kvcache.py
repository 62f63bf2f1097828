"""KV blocks: who holds how many, which are shared, and which go first when room is needed."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from triptych.policy import KVCache, Request


def request(prompt_tokens: int, *hashes: int) -> Request:
    return Request(id=0, prompt_tokens=prompt_tokens, output_tokens=8, block_hashes=hashes)


def shared(blocks: int) -> KVCache:
    """A cache with prefix sharing; 4 tokens a block."""
    return KVCache(blocks, 4, prefix_cache=True)


def put(kv: KVCache, request: Request) -> int:
    """Admits a request and computes its whole prompt; returns the blocks that were found."""
    hits = kv.match(request)
    assert kv.take(request, request.prefill_tokens, hits)
    if kv.prefix_cache:
        kv.enter(request, request.prefill_tokens)
    return hits


def test_a_holding_grows_by_whole_blocks() -> None:
    kv, holder = KVCache(10, 4), request(5)
    assert kv.take(holder, 5)
    assert (holder.blocks, kv.free, kv.used) == (2, 8, 2)
    assert kv.take(holder, 8), "the second block has room for three more"
    assert holder.blocks == 2
    assert kv.take(holder, 9)
    assert (holder.blocks, kv.free) == (3, 7)
    kv.release(holder)
    assert (holder.blocks, kv.free) == (0, 10)


@pytest.mark.parametrize("prefix_cache", [False, True])
def test_what_does_not_fit_changes_nothing(prefix_cache: bool) -> None:
    kv, holder = KVCache(3, 4, prefix_cache=prefix_cache), request(16, 1, 2, 3, 4)
    assert not kv.take(holder, 13)
    assert not kv.take(holder, 8, keep_free=2)
    assert (holder.blocks, holder.shared_blocks, kv.free, kv.cached) == (0, 0, 3, 0)
    assert kv.take(holder, 8, keep_free=1)


def test_drawing_more_than_is_free_is_an_error() -> None:
    kv = KVCache(3, 4)
    kv.draw(2)
    with pytest.raises(ValueError, match="2 blocks wanted, 1 free"):
        kv.draw(2)
    assert kv.free == 1


def test_nothing_is_shared_without_a_prefix_cache() -> None:
    kv = KVCache(10, 4)
    put(kv, request(8, 1, 2))
    assert (put(kv, request(8, 1, 2)), kv.cached, kv.free) == (0, 0, 6)


def test_a_shared_prefix_is_held_once() -> None:
    kv, first, second = shared(10), request(12, 1, 2, 3), request(12, 1, 2, 4)
    assert (put(kv, first), kv.free) == (0, 7)
    assert (put(kv, second), kv.free) == (2, 6), "only its third block is its own"
    kv.release(first)
    assert kv.free == 7, "the two blocks of the prefix are still held"
    kv.release(second)
    assert (kv.free, kv.cached) == (10, 4)


def test_a_prefix_ends_with_the_first_block_that_is_not_there() -> None:
    kv = shared(10)
    put(kv, request(8, 1, 2))
    assert kv.match(request(17, 1, 9, 2, 8)) == 1
    assert kv.match(request(17, 9, 1, 2, 8)) == 0


def test_at_least_one_token_of_a_prompt_is_computed() -> None:
    kv = shared(10)
    put(kv, request(8, 1, 2))
    assert kv.match(request(8, 1, 2)) == 1, "all 8 tokens are cached; the last must be computed"
    assert kv.match(request(9, 1, 2)) == 2


def test_after_a_preemption_the_generated_tokens_are_what_is_computed() -> None:
    kv, again = shared(10), request(8, 1, 2)
    put(kv, again)
    kv.release(again)
    again.generated_tokens = 1
    assert kv.match(again) == 2


def test_blocks_are_found_once_they_are_computed_and_full() -> None:
    kv, holder, other = shared(10), request(12, 1, 2, 3), request(13, 1, 2, 3)
    assert kv.take(holder, 12)
    assert (kv.match(other), holder.shared_blocks, kv.cached) == (0, 0, 0), "there is room, and nothing in it"
    kv.enter(holder, 7)
    assert (kv.match(other), holder.shared_blocks, kv.cached) == (1, 1, 1)
    kv.enter(holder, 12)
    assert (kv.match(other), holder.shared_blocks, kv.cached) == (3, 3, 3)
    assert (holder.blocks, kv.free) == (3, 7), "to be found takes no memory"


def test_what_was_never_computed_cannot_be_found_after_its_holder_has_gone() -> None:
    kv, holder = shared(10), request(12, 1, 2, 3)
    assert kv.take(holder, 12)
    kv.enter(holder, 4)
    kv.release(holder)
    assert (kv.match(request(13, 1, 2, 3)), kv.free) == (1, 10)


def test_idle_blocks_stay_findable_until_their_room_is_needed() -> None:
    kv, gone = shared(4), request(9, 1, 2)
    put(kv, gone)
    kv.release(gone)
    assert (kv.free, kv.cached) == (4, 2), "idle blocks count as free"
    kv.draw(2)
    assert kv.cached == 2, "two blocks were not in use at all"
    kv.draw(1)
    assert kv.match(request(9, 1, 2)) == 1, "the tail goes before the head"
    kv.draw(1)
    assert kv.cached == 0


def test_the_least_recently_used_go_first() -> None:
    kv, old, new = shared(4), request(8, 1, 2), request(8, 3, 4)
    for each in (old, new, old):
        put(kv, each)
        kv.release(each)
    kv.draw(2)
    assert kv.match(request(9, 1, 2)) == 2, "it was used again"
    assert kv.match(request(9, 3, 4)) == 0


def test_an_idle_block_that_is_found_counts_as_taken() -> None:
    kv, first = shared(3), request(8, 1, 2)
    put(kv, first)
    kv.release(first)
    assert kv.free == 3
    longer = request(16, 1, 2, 3, 4)
    assert not kv.take(longer, 16, kv.match(longer)), "2 found and 2 fresh are 4 of 3"
    assert put(kv, request(12, 1, 2, 3)) == 2
    assert kv.free == 0


def test_a_twin_computed_beside_another_stays_private() -> None:
    # The second did not look for hits, or looked before the first was computed.
    kv, first, twin = shared(10), request(8, 1, 2), request(8, 1, 2)
    for each in (first, twin):
        assert kv.take(each, 8)
    for each in (first, twin):
        kv.enter(each, 8)
    assert (twin.blocks, twin.shared_blocks, kv.free, kv.cached) == (2, 0, 6, 2)
    kv.release(twin)
    assert (kv.free, kv.cached) == (8, 2)
    kv.release(first)
    assert kv.free == 10


def test_what_was_held_can_be_given_back_by_count_and_hashes() -> None:
    kv, holder = shared(4), request(10, 1, 2)
    put(kv, holder)
    kv.give_back(3, (1, 2))
    assert (kv.free, kv.cached) == (4, 2)


class Block:
    """A physical block of the model."""

    def __init__(self) -> None:
        self.name: int | None = None
        self.holders: list[Request] = []


class Paging(RuleBasedStateMachine):
    """Random use of a cache, beside a model that has each block as an object.

    A model request holds a list of blocks. A block that nobody holds is either blank or idle; blanks are
    used up first, then idle ones in the order in which they became so.
    """

    requests = Bundle("requests")

    def __init__(self) -> None:
        super().__init__()
        self.kv = KVCache(7, 2, prefix_cache=True)
        self.blank = [Block() for _ in range(7)]
        self.idle: list[Block] = []
        self.named: dict[int, Block] = {}
        self.holdings: dict[Request, list[Block]] = {}
        self.drawn: list[Block] = []

    @rule(
        target=requests,
        prefix=st.lists(st.integers(0, 1), max_size=4),
        rest=st.integers(0, 3),
        look=st.booleans(),
        first_chunk=st.integers(1, 12),
        keep_free=st.sampled_from([0, 0, 1]),
    )
    def start(self, prefix: list[int], rest: int, look: bool, first_chunk: int, keep_free: int) -> Request:
        """A request comes, with a chained hash for each full block, and takes room for a first chunk."""
        hashes = [hash(tuple(prefix[: n + 1])) for n in range(len(prefix))]
        tokens = max(1, 2 * len(prefix) + (rest if rest < 2 else 0))
        new = Request(id=0, prompt_tokens=tokens, output_tokens=9, block_hashes=tuple(hashes))
        self.holdings[new] = []
        hits = 0
        while look and hits < len(hashes) and hashes[hits] in self.named and 2 * (hits + 1) < tokens:
            hits += 1
        if look:
            assert self.kv.match(new) == hits
        self.take(new, min(tokens, 2 * hits + first_chunk), hits, keep_free)
        return new

    @rule(holder=requests, tokens=st.integers(1, 14))
    def grow(self, holder: Request, tokens: int) -> None:
        """A request that is there takes room for more."""
        if self.holdings[holder]:
            self.take(holder, tokens, 0, 0)

    def take(self, request: Request, tokens: int, hits: int, keep_free: int) -> None:
        held = self.holdings[request]
        found = [self.named[name] for name in request.block_hashes[:hits]]
        fresh = max(0, -(-tokens // 2) - len(held) - hits)
        unheld = len(self.blank) + len(self.idle) - sum(block in self.idle for block in found)
        assert self.kv.take(request, tokens, hits, keep_free) == (fresh + keep_free <= unheld)
        if fresh + keep_free > unheld:
            return
        for block in found:
            if block in self.idle:
                self.idle.remove(block)
        held += found + [self.fresh_block() for _ in range(fresh)]
        for block in held[-(fresh + hits) :] if fresh + hits else []:
            block.holders.append(request)

    @rule(holder=requests, tokens=st.integers(1, 10))
    def compute(self, holder: Request, tokens: int) -> None:
        """A request's prompt is computed up to a token for which it has room."""
        held = self.holdings[holder]
        tokens = min(tokens, 2 * len(held))
        self.kv.enter(holder, tokens)
        for block, name in list(zip(held, holder.block_hashes, strict=False))[: tokens // 2]:
            if block.name is None:
                if name in self.named:
                    break
                block.name = name
                self.named[name] = block

    def fresh_block(self) -> Block:
        if self.blank:
            return self.blank.pop()
        evicted = self.idle.pop(0)
        assert evicted.name is not None
        del self.named[evicted.name]
        evicted.name = None
        return evicted

    @rule(holder=consumes(requests))
    def release(self, holder: Request) -> None:
        """A request gives back all it holds, the tail of its prefix first."""
        self.kv.release(holder)
        for block in reversed(self.holdings.pop(holder)):
            block.holders.remove(holder)
            if not block.holders:
                (self.blank if block.name is None else self.idle).append(block)

    @rule(count=st.integers(1, 3))
    def draw(self, count: int) -> None:
        """Decodes draw blocks that no hash names."""
        if count <= len(self.blank) + len(self.idle):
            self.kv.draw(count)
            self.drawn += [self.fresh_block() for _ in range(count)]

    @rule(count=st.integers(1, 3))
    def give_back(self, count: int) -> None:
        """And they come back."""
        back, self.drawn = self.drawn[:count], self.drawn[count:]
        self.kv.give_back(len(back), ())
        self.blank += back

    @invariant()
    def no_block_is_lost_or_invented(self) -> None:
        held = {block for blocks in self.holdings.values() for block in blocks}
        assert len(self.blank) + len(self.idle) + len(held) + len(self.drawn) == 7
        assert self.kv.free == len(self.blank) + len(self.idle)
        assert self.kv.used == len(held) + len(self.drawn)
        assert self.kv.cached == len(self.named)
        for holder, blocks in self.holdings.items():
            assert holder.blocks == len(blocks)
            assert [block.name for block in blocks[: holder.shared_blocks]] == list(
                holder.block_hashes[: holder.shared_blocks]
            )
            assert all(block.name is None for block in blocks[holder.shared_blocks :])


TestPaging = Paging.TestCase
TestPaging.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


class PlainPaging(RuleBasedStateMachine):
    """The same without a prefix cache: what is free and what is held make up the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.kv = KVCache(7, 2)
        self.requests: list[Request] = []
        self.drawn = 0

    @rule(tokens=st.integers(1, 9))
    def start(self, tokens: int) -> None:
        new = request(tokens, *range(tokens // 2))
        assert self.kv.take(new, tokens) == (new.blocks > 0)
        self.requests.append(new)

    @rule(data=st.data(), tokens=st.integers(1, 9))
    def grow(self, data: st.DataObject, tokens: int) -> None:
        if self.requests:
            self.kv.take(data.draw(st.sampled_from(self.requests)), tokens)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.requests:
            self.kv.release(self.requests.pop(data.draw(st.integers(0, len(self.requests) - 1))))

    @rule(count=st.integers(1, 3))
    def draw(self, count: int) -> None:
        if count <= self.kv.free:
            self.kv.draw(count)
            self.drawn += count

    @invariant()
    def no_block_is_lost_or_invented(self) -> None:
        assert self.kv.free >= 0
        assert self.kv.cached == 0
        assert self.kv.free + self.drawn + sum(each.blocks for each in self.requests) == 7


TestPlainPaging = PlainPaging.TestCase
TestPlainPaging.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
