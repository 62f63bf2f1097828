"""Routers: which instance gets a request, and what they remember of it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.policy import ROUTERS, Image, Phase, Request, Router
from triptych.policy.router import (
    LeastRequestsRouter,
    LeastTokensRouter,
    PrefixAffinityRouter,
    RandomRouter,
    RoundRobinRouter,
)

from .drive import request

SETTINGS = settings(max_examples=50, deadline=None)
STEPS = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 99)), max_size=60)
"""For each step a number, by which a request comes or one of those that are there goes, and a prompt."""


def text(prompt: int = 8, *hashes: int) -> Request:
    return request("A", prompt, 5, hashes=hashes)


# All --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ROUTERS.values(), ids=ROUTERS)
@SETTINGS
@given(targets=st.integers(1, 5), steps=STEPS)
def test_every_router_picks_one_of_its_instances(
    policy: type[Router], targets: int, steps: list[tuple[int, int]]
) -> None:
    router = policy(targets, seed=1)
    assert router.targets == targets
    for family, prompt in steps:
        assert 0 <= router.route(text(prompt, family, prompt)) < targets


@pytest.mark.parametrize("policy", ROUTERS.values(), ids=ROUTERS)
def test_a_router_repeats_itself(policy: type[Router]) -> None:
    def picks() -> list[int]:
        router = policy(7, seed=3)
        return [router.route(text(1 + n % 5, n % 3)) for n in range(50)]

    assert picks() == picks()


@pytest.mark.parametrize("policy", ROUTERS.values(), ids=ROUTERS)
def test_the_answers_length_is_not_looked_at(policy: type[Router]) -> None:
    def picks(outputs: range) -> list[int]:
        router = policy(4, seed=3)
        return [router.route(request("A", 8, output)) for output in outputs]

    assert picks(range(1, 30)) == picks(range(30, 1, -1))


# Those that keep no account -----------------------------------------------------------------------------


def test_random_repeats_by_its_seed() -> None:
    def picks(seed: int) -> list[int]:
        router = RandomRouter(10, seed=seed)
        return [router.route(text()) for _ in range(30)]

    assert picks(1) == picks(1)
    assert picks(1) != picks(2)


def test_random_gives_every_instance_the_same_chance() -> None:
    # 4,000 draws over 4 instances: 1,000 each, with a standard deviation of 27. Five of them are allowed.
    router = RandomRouter(4, seed=0)
    counts = Counter(router.route(text()) for _ in range(4_000))
    assert all(abs(counts[target] - 1_000) < 5 * 27.4 for target in range(4))


def test_round_robin_takes_each_in_turn_whatever_its_load() -> None:
    router = RoundRobinRouter(3)
    picks = []
    for prompt in (1, 1_000, 1, 1, 1, 1, 1):
        each = text(prompt)
        picks.append(router.route(each))
        router.done(each, picks[-1])
    assert picks == [0, 1, 2, 0, 1, 2, 0]


# Least outstanding ----------------------------------------------------------------------------------------


def test_least_requests_goes_where_the_fewest_are() -> None:
    router = LeastRequestsRouter(3)
    first, second, third = text(), text(), text()
    assert [router.route(each) for each in (first, second, third)] == [0, 1, 2], "ties go to the lowest"
    router.done(second, 1)
    assert router.route(text()) == 1
    assert router.loads == [1, 1, 1]


def test_least_tokens_weighs_prompts() -> None:
    router = LeastTokensRouter(2)
    assert router.route(text(100)) == 0
    assert [router.route(text(30)) for _ in range(4)] == [1, 1, 1, 1]
    assert router.route(text(1)) == 0, "100 there, 120 here"


def test_least_tokens_weighs_what_the_phase_works_on() -> None:
    router = LeastTokensRouter(1)
    pictures = [Image(patches=9, tokens=4, content=1), Image(patches=7, tokens=4, content=2)]
    each = request("A", 20, 5, images=pictures)
    router.route(each)
    assert router.loads == [16], "patches to encode"
    router.done(each, 0)
    each.phase = Phase.PREFILL
    router.route(each)
    assert router.loads == [20], "tokens of the prompt"
    router.done(each, 0)
    each.phase, each.generated_tokens = Phase.DECODE, 3
    router.route(each)
    assert router.loads == [23], "tokens of context"


def test_a_request_is_taken_off_by_the_weight_that_it_was_put_on_with() -> None:
    router = LeastTokensRouter(1)
    each = text(20)
    router.route(each)
    each.generated_tokens = 4
    router.done(each, 0)
    assert router.loads == [0]


@pytest.mark.parametrize("policy", [LeastRequestsRouter, LeastTokensRouter])
@SETTINGS
@given(targets=st.integers(1, 4), steps=STEPS)
def test_the_least_loaded_is_picked_and_all_loads_return_to_zero(
    policy: type[LeastRequestsRouter | LeastTokensRouter], targets: int, steps: list[tuple[int, int]]
) -> None:
    router = policy(targets)
    there: list[tuple[Request, int]] = []
    for choice, prompt in steps:
        if choice > 5 and there:
            router.done(*there.pop(choice % len(there)))
            continue
        loads = [sum(weight(router, each) for each, target in there if target == n) for n in range(targets)]
        assert router.loads == loads
        each = text(prompt)
        target = router.route(each)
        assert target == loads.index(min(loads))
        there.append((each, target))
    for each, target in there:
        router.done(each, target)
    assert router.loads == [0] * targets


def weight(router: Router, request: Request) -> int:
    return request.prompt_tokens if isinstance(router, LeastTokensRouter) else 1


def test_the_least_loaded_is_found_after_any_number_of_requests() -> None:
    # The loads change far more often than there are instances.
    router = LeastRequestsRouter(3)
    standing = [text(), text()]
    assert [router.route(each) for each in standing] == [0, 1]
    for _ in range(1_000):
        passing = text()
        assert router.route(passing) == 2
        router.done(passing, 2)
    assert router.loads == [1, 1, 0]


# Prefix affinity: outstanding tokens, and those of the prompt that are new to the instance ------------------


def test_a_prefix_goes_where_it_was_seen() -> None:
    # Blocks of 16 tokens. What is outstanding on each instance has been sent away again, so nobody waits.
    router = PrefixAffinityRouter(3)
    idle(router, 1, text(32, 1, 2))
    idle(router, 2, text(32, 3, 4))
    assert route_and_leave(router, text(48, 1, 2, 9)) == 1, "0 + 48 - 32, against 48 elsewhere"
    assert route_and_leave(router, text(32, 3, 9)) == 2, "0 + 32 - 16"
    assert route_and_leave(router, text(32, 9)) == 0, "nobody has seen it: all cost the same"
    assert route_and_leave(router, text(32)) == 0, "nothing that could be shared"


def test_a_prefix_is_worth_the_tokens_that_it_saves_and_no_more() -> None:
    # Instance 1 has seen 3 blocks, 48 tokens. The prompt of 64 costs load + 16 there, and 64 on 0.
    for load, choice in ((47, 1), (48, 0), (49, 0)):
        router = PrefixAffinityRouter(2)
        idle(router, 1, text(48, 1, 2, 3))
        router.assign(text(load), 1)
        assert router.route(text(64, 1, 2, 3, 4)) == choice, "of equals the first"


def test_of_equals_the_first_wins_even_if_the_other_has_nothing_to_do() -> None:
    router = PrefixAffinityRouter(2)
    idle(router, 0, text(48, 1, 2, 3))
    router.assign(text(48), 0)
    assert router.route(text(48, 1, 2, 3)) == 0, "48 + 0, against 0 + 48"


def test_the_least_sum_wins_not_the_longest_prefix() -> None:
    # A prompt of 80 tokens in 5 blocks; the instances have seen 4, 2, 1 and 0 of them.
    #   load + new: 50 + 16 = 66, 10 + 48 = 58, 0 + 64 = 64, 0 + 80 = 80
    router = PrefixAffinityRouter(4)
    for target, hashes in enumerate([(1, 2, 3, 4), (1, 2, 7), (1,)]):
        idle(router, target, text(16 * len(hashes), *hashes))
    router.assign(text(50), 0)
    router.assign(text(10), 1)
    assert router.route(text(80, 1, 2, 3, 4, 5)) == 1
    #   50 + 16 = 66, 90 + 0 = 90, 0 + 64 = 64, 0 + 80 = 80
    assert router.route(text(80, 1, 2, 3, 4, 5)) == 2


def test_a_whole_prompt_is_outstanding_cached_or_not() -> None:
    router = PrefixAffinityRouter(2)
    first, second = text(32, 1, 2), text(40, 1, 2)
    idle(router, 1, first)
    assert router.route(second) == 1
    assert router.loads == [0, 40]
    router.done(second, 1)
    assert router.loads == [0, 0]


def test_tokens_are_counted_in_the_blocks_that_prompts_are_hashed_in() -> None:
    # Instance 1 has 20 tokens to do and has seen 2 blocks: worth it if they are of 16 tokens, not of 8.
    for block_size, choice in ((8, 0), (16, 1)):
        router = PrefixAffinityRouter(2, block_size=block_size)
        idle(router, 1, text(2 * block_size, 1, 2))
        router.assign(text(20), 1)
        assert router.route(text(3 * block_size, 1, 2, 3)) == choice


def test_a_prefix_is_worth_nothing_to_a_request_that_decodes() -> None:
    router = PrefixAffinityRouter(2)
    idle(router, 1, text(32, 1, 2))
    each = text(32, 1, 2)
    each.phase = Phase.DECODE
    assert route_and_leave(router, each) == 0, "its KV is sent whole: as least-tokens"
    assert route_and_leave(router, text(48, 1, 2, 3)) == 1, "and prefill finds nothing where it was sent"


def test_a_request_with_images_goes_where_its_prompt_is_known() -> None:
    router = PrefixAffinityRouter(2)
    idle(router, 1, text(32, 1, 2))
    each = request("A", 32, 5, images=[Image(patches=16, tokens=4, content=1)], hashes=[1, 2])
    assert router.route(each) == 1
    assert router.loads == [0, 16], "patches"


def test_a_short_memory_forgets_what_was_used_longest_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two blocks are remembered: with block 3 comes the end of block 2, for block 1 was used again after it.
    monkeypatch.setattr(PrefixAffinityRouter, "remembered", 2)
    router = PrefixAffinityRouter(2)
    for block in (1, 2, 1, 3):
        idle(router, 1, text(16, block))
    assert route_and_leave(router, text(16, 2)) == 0
    assert route_and_leave(router, text(16, 1)) == 1
    assert route_and_leave(router, text(16, 3)) == 1


def test_the_picture_does_not_grow_beyond_what_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PrefixAffinityRouter, "remembered", 5)
    router = PrefixAffinityRouter(2)
    for block in range(0, 300, 3):
        router.route(text(48, block, block + 1, block + 2))
    assert [len(seen) for seen in router._seen] == [5, 5]
    assert sum(map(len, router._beginnings.values())) <= 10


def test_of_one_prompt_the_tail_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    # Four blocks for three places: another prompt is more likely to share the head than the tail.
    monkeypatch.setattr(PrefixAffinityRouter, "remembered", 3)
    for load, choice in ((47, 1), (48, 0)):
        router = PrefixAffinityRouter(2)
        idle(router, 1, text(64, 1, 2, 3, 4))
        router.assign(text(load), 1)
        assert router.route(text(64, 1, 2, 3, 4)) == choice, "the first 3 blocks save 48 tokens"


@SETTINGS
@given(targets=st.integers(1, 4), remembered=st.integers(1, 12), steps=STEPS)
def test_affinity_picks_the_least_cost_of_all(
    targets: int, remembered: int, steps: list[tuple[int, int]]
) -> None:
    """As all instances would be compared that are each a plain list of blocks, latest last."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PrefixAffinityRouter, "remembered", remembered)
        router = PrefixAffinityRouter(targets, block_size=4)
        caches: list[list[int]] = [[] for _ in range(targets)]
        there: list[tuple[Request, int]] = []
        for choice, prompt in steps:
            if choice > 6 and there:
                router.done(*there.pop(choice % len(there)))
                continue
            # Family `choice % 3`, in which prompts part from each other after as many blocks as `choice`.
            hashes = [100 * (choice % 3) + n + 10 * (n > choice) for n in range(prompt // 4 % 9)]
            costs = []
            for cache, load in zip(caches, router.loads, strict=True):
                known = next((n for n, each in enumerate(hashes) if each not in cache), len(hashes))
                costs.append(load + prompt - 4 * known)
            each = text(prompt, *hashes)
            target = router.route(each)
            assert target == costs.index(min(costs))
            kept = [block for block in caches[target] if block not in hashes]
            caches[target] = (kept + hashes[::-1])[-remembered:]
            there.append((each, target))
        for each, target in there:
            router.done(each, target)
        assert router.loads == [0] * targets


def idle(router: PrefixAffinityRouter, target: int, request: Request) -> None:
    """Lets a request come to an instance, whatever it costs, and leave it again."""
    others = [other for other in range(router.targets) if other != target]
    fillers = [(text(10_000), other) for other in others]
    for filler, other in fillers:
        router.assign(filler, other)
    assert route_and_leave(router, request) == target
    for filler, other in fillers:
        router.done(filler, other)


def route_and_leave(router: Router, request: Request) -> int:
    """Where a request is sent that leaves before the next one comes."""
    target = router.route(request)
    router.done(request, target)
    return target
