"""The decode set: in aggregate what a simulation of each request, one token at a time, gives."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from triptych.policy import DecodeSet, KVCache, Request


def member(kv: KVCache, context: int, remaining: int, *, whole: bool = False) -> Request:
    """A request whose prompt of `context` tokens is in the cache, with its first token known."""
    request = Request(id=0, prompt_tokens=context, output_tokens=remaining + 1)
    request.context_tokens, request.generated_tokens = context, 1
    assert kv.take(request, request.longest_context if whole else context)
    return request


def test_every_member_gains_a_token_an_iteration() -> None:
    kv = KVCache(100, 4)
    decodes = DecodeSet(kv)
    early, late = member(kv, 5, 9), member(kv, 8, 9)
    decodes.join(early)
    assert decodes.draw_blocks()
    decodes.advance(3)
    decodes.join(late)
    assert (decodes.context(early), decodes.context(late), decodes.context_tokens) == (8, 8, 16)
    assert decodes.draw_blocks()
    decodes.advance(2)
    assert (decodes.context(early), decodes.context(late), decodes.context_tokens) == (10, 10, 20)
    assert (decodes.generated(early), decodes.generated(late)) == (6, 3)


def test_a_member_that_leaves_takes_its_progress_and_its_blocks_along() -> None:
    kv = KVCache(100, 4)
    decodes, request = DecodeSet(kv), member(kv, 5, 9)
    decodes.join(request)
    assert decodes.draw_blocks()
    decodes.advance(4)
    decodes.leave(request)
    assert (request.context_tokens, request.generated_tokens, request.blocks) == (9, 5, 3)
    assert (decodes.context_tokens, len(decodes.members), kv.used) == (0, 0, 3)


def test_members_that_have_all_their_tokens_end_in_the_order_in_which_they_joined() -> None:
    kv = KVCache(100, 4)
    decodes = DecodeSet(kv)
    first, second, third = member(kv, 4, 3), member(kv, 4, 2), member(kv, 4, 3)
    for request in (first, second, third):
        decodes.join(request)
    assert decodes.steps_to_run() == 2
    assert decodes.draw_blocks()
    assert decodes.advance(2) == [second]
    assert decodes.steps_to_run() == 1
    assert decodes.draw_blocks()
    assert decodes.advance(1) == [first, third]
    assert [request.remaining_tokens for request in (first, second, third)] == [0, 0, 0]


def test_a_member_needs_a_block_when_its_last_is_full() -> None:
    kv = KVCache(100, 4)
    decodes, request = DecodeSet(kv), member(kv, 6, 20)
    decodes.join(request)
    drawn = []
    for _ in range(8):
        before = kv.free
        assert decodes.draw_blocks()
        drawn.append(before - kv.free)
        decodes.advance(1)
    assert drawn == [0, 0, 1, 0, 0, 0, 1, 0], "its 9th and its 13th token open a block"


def test_without_enough_blocks_none_is_drawn() -> None:
    kv = KVCache(3, 4)
    decodes = DecodeSet(kv)
    decodes.join(member(kv, 4, 9))
    decodes.join(member(kv, 4, 9))
    assert kv.free == 1
    assert not decodes.draw_blocks()
    assert kv.free == 1


def test_the_iterations_end_where_memory_does() -> None:
    # Tokens 5 and 9 of each need a block: 4 of them for both to come as far as 12 tokens.
    for free, steps in [(2, 4), (3, 4), (4, 8), (5, 8)]:
        kv = KVCache(2 + free, 4)
        decodes = DecodeSet(kv)
        for _ in range(2):
            decodes.join(member(kv, 4, 20))
        assert decodes.draw_blocks()
        assert decodes.steps_to_run() == steps


def test_drawing_evicts_what_is_cached_and_idle() -> None:
    kv = KVCache(2, 4, prefix_cache=True)
    gone = Request(id=1, prompt_tokens=4, output_tokens=1, block_hashes=(1,))
    assert kv.take(gone, 4)
    kv.enter(gone, 4)
    kv.release(gone)
    decodes = DecodeSet(kv)
    decodes.join(member(kv, 4, 9))
    assert (kv.free, kv.cached) == (1, 1)
    assert decodes.draw_blocks()
    assert (kv.free, kv.cached) == (0, 0)


def test_members_that_hold_all_they_need_draw_nothing() -> None:
    kv = KVCache(4, 4)
    decodes, request = DecodeSet(kv, grows=False), member(kv, 4, 12, whole=True)
    decodes.join(request)
    assert (kv.free, decodes.draw_blocks(), decodes.steps_to_run()) == (0, True, 12)
    assert decodes.advance(12) == [request]
    assert (request.blocks, kv.free) == (4, 0)


def test_the_youngest_is_the_one_that_joined_last_even_if_it_was_there_before() -> None:
    kv = KVCache(100, 4)
    decodes, first, second = DecodeSet(kv), member(kv, 4, 9), member(kv, 4, 9)
    decodes.join(first)
    decodes.join(second)
    assert decodes.youngest() is second
    decodes.leave(first)
    decodes.join(first)
    assert decodes.youngest() is first
    assert decodes.steps_to_run() == 9


def test_who_leaves_and_joins_again_ends_by_its_last_stay() -> None:
    kv = KVCache(100, 4)
    decodes, request, other = DecodeSet(kv), member(kv, 4, 3), member(kv, 4, 20)
    decodes.join(request)
    decodes.join(other)
    assert decodes.draw_blocks()
    decodes.advance(2)
    decodes.leave(request)
    assert decodes.steps_to_run() == 18
    assert decodes.draw_blocks()
    decodes.advance(2)
    decodes.join(request)
    assert decodes.steps_to_run() == 1
    assert decodes.draw_blocks()
    assert decodes.advance(1) == [request]


@dataclass
class Naive:
    """One member of the model."""

    request: Request
    context: int
    generated: int
    remaining: int
    blocks: int


class Decoding(RuleBasedStateMachine):
    """Random joins, runs and leaves, beside a list that is stepped one token and one member at a time."""

    @initialize(blocks=st.integers(4, 24), block_size=st.integers(1, 5), grows=st.booleans())
    def build(self, blocks: int, block_size: int, grows: bool) -> None:
        self.kv = KVCache(blocks, block_size)
        self.size, self.grows = block_size, grows
        self.decodes = DecodeSet(self.kv, grows=grows)
        self.model: list[Naive] = []

    @rule(context=st.integers(1, 12), remaining=st.integers(1, 20))
    def join(self, context: int, remaining: int) -> None:
        stored = context if self.grows else context + remaining
        if -(-stored // self.size) > self.kv.free:
            return
        request = member(self.kv, context, remaining, whole=not self.grows)
        self.decodes.join(request)
        self.model.append(Naive(request, context, 1, remaining, request.blocks))

    @precondition(lambda self: self.model)
    @rule(data=st.data(), again=st.booleans())
    def leave(self, data: st.DataObject, again: bool) -> None:
        gone = self.model.pop(data.draw(st.integers(0, len(self.model) - 1)))
        request = gone.request
        self.decodes.leave(request)
        assert (request.context_tokens, request.generated_tokens) == (gone.context, gone.generated)
        assert request.blocks == gone.blocks
        if again:
            self.decodes.join(request)
            self.model.append(gone)
        else:
            self.kv.release(request)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def run(self, data: st.DataObject) -> None:
        needed = self.needed()
        assert self.decodes.draw_blocks() == (needed <= self.free())
        if needed > self.free():
            self.preempt()
            return
        most = self.steps_to_run()
        assert self.decodes.steps_to_run() == most
        iterations = data.draw(st.integers(1, most), label="iterations")
        ended = [naive for _ in range(iterations) for naive in self.step()]
        assert self.decodes.advance(iterations) == [naive.request for naive in ended]
        for naive in ended:
            self.model.remove(naive)
            assert naive.request.blocks == naive.blocks
            assert naive.request.remaining_tokens == 0
            self.kv.release(naive.request)

    def preempt(self) -> None:
        youngest = self.model.pop()
        assert self.decodes.youngest() is youngest.request
        self.decodes.leave(youngest.request)
        assert youngest.request.blocks == youngest.blocks
        self.kv.release(youngest.request)

    def needed(self) -> int:
        return sum(naive.context % self.size == 0 for naive in self.model) if self.grows else 0

    def free(self) -> int:
        return self.kv.blocks - sum(naive.blocks for naive in self.model)

    def step(self) -> list[Naive]:
        for naive in self.model:
            if self.grows and naive.context % self.size == 0:
                naive.blocks += 1
            naive.context += 1
            naive.generated += 1
            naive.remaining -= 1
        return [naive for naive in self.model if naive.remaining == 0]

    def steps_to_run(self) -> int:
        """Tries every step: until one would need more blocks than are free, or a member has ended."""
        contexts = [naive.context for naive in self.model]
        left, shortest = self.free(), min(naive.remaining for naive in self.model)
        for step in range(shortest):
            left -= sum((context + step) % self.size == 0 for context in contexts) if self.grows else 0
            if left < 0:
                return step
        return shortest

    @invariant()
    def the_aggregate_says_what_the_members_say(self) -> None:
        decodes, model = self.decodes, self.model
        assert list(decodes.members) == [naive.request for naive in model]
        assert decodes.context_tokens == sum(naive.context for naive in model)
        assert decodes.longest() == max((naive.context for naive in model), default=0)
        assert [decodes.context(naive.request) for naive in model] == [naive.context for naive in model]
        assert [decodes.generated(naive.request) for naive in model] == [naive.generated for naive in model]
        assert self.kv.free == self.free()


TestDecoding = Decoding.TestCase
TestDecoding.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


def test_a_set_without_members_needs_nothing() -> None:
    kv = KVCache(0, 4)
    assert DecodeSet(kv).draw_blocks()


@pytest.mark.parametrize("grows", [True, False])
def test_a_set_is_empty_after_its_last_member(grows: bool) -> None:
    kv = KVCache(10, 4)
    decodes, request = DecodeSet(kv, grows=grows), member(kv, 4, 9, whole=not grows)
    decodes.join(request)
    assert decodes.draw_blocks()
    assert decodes.advance(decodes.steps_to_run()) == [request]
    kv.release(request)
    assert (len(decodes.members), decodes.context_tokens, kv.free) == (0, 0, 10)


def test_the_longest_is_known_whoever_joins_and_leaves() -> None:
    kv = KVCache(1000, 16)
    decodes = DecodeSet(kv)
    assert decodes.longest() == 0
    members = [member(kv, context, 100) for context in (30, 50, 10)]
    for each in members:
        decodes.join(each)
    assert decodes.longest() == 50
    assert decodes.draw_blocks()
    decodes.advance(3)
    assert decodes.longest() == 53
    decodes.leave(members[1])
    assert decodes.longest() == 33
    decodes.join(members[1])
    assert decodes.longest() == 53
