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


# Prefix affinity ------------------------------------------------------------------------------------------


def test_a_prefix_goes_where_it_was_seen() -> None:
    router = PrefixAffinityRouter(3)
    assert router.route(text(8, 1, 2)) == 0
    assert router.route(text(8, 3, 4)) == 1
    assert router.route(text(8, 1, 5)) == 0
    assert router.route(text(8, 3, 4, 6)) == 1
    assert router.route(text(8, 7)) == 2, "nobody has seen it: the least loaded"
    assert router.route(text()) == 2, "nothing that could be shared: the least loaded"


def test_the_longest_prefix_decides() -> None:
    # With n requests on the first of 2 instances and none on the second the bound is 1.5 * n / 2 + 4: 16 are
    # within it, and 17, of 16.75, are not. So the first block goes to the second instance in the end.
    router = PrefixAffinityRouter(2)
    requests = [text(8, 1, 2, 3) for _ in range(17)]
    assert [router.route(each) for each in requests] == [0] * 17
    assert router.route(text(8, 1, 4)) == 1
    for each in requests:
        router.done(each, 0)
    assert router.route(text(8, 1, 2, 5)) == 0, "the second block was never sent elsewhere"
    assert router.route(text(8, 1, 6)) == 0, "and the first has come back with it"
    assert router.route(text(8, 1, 4, 7)) == 1


def test_an_overloaded_instance_loses_its_prefixes() -> None:
    # With n requests on the first of 4 instances the bound is 1.5 * n / 4 + 4: 6 are within 6.25, and 7 are
    # not within 6.625. So seven requests follow the prefix, and the eighth goes to the least loaded.
    router = PrefixAffinityRouter(4)
    requests = [text(8, 1) for _ in range(8)]
    assert [router.route(each) for each in requests] == [0] * 7 + [1]
    assert router.route(text(8, 1)) == 1, "where it was seen last"
    for each in requests[:7]:
        router.done(each, 0)
    assert router.loads == [0, 2, 0, 0]


def test_a_short_memory_forgets_what_was_used_longest_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two blocks are remembered: with block 3 comes the end of block 2, for block 1 was used again after it.
    monkeypatch.setattr(PrefixAffinityRouter, "remembered", 2)
    router = PrefixAffinityRouter(3)
    assert [router.route(text(8, block)) for block in (1, 2, 1, 3)] == [0, 1, 0, 2]
    assert router.route(text()) == 1
    assert router.loads == [2, 2, 1]
    assert router.route(text(8, 1)) == 0, "still known, though not the least loaded"
    assert router.route(text(8, 2)) == 2, "the least loaded; it was known at 1"


def test_of_one_prompt_the_tail_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    # Four blocks for three places: another prompt is more likely to share the head than the tail.
    monkeypatch.setattr(PrefixAffinityRouter, "remembered", 3)
    router = PrefixAffinityRouter(3)
    assert [router.route(text()), router.route(text(16, 1, 2, 3, 4))] == [0, 1]
    assert router.route(text(8, 1, 9)) == 1


@SETTINGS
@given(targets=st.integers(1, 4), steps=STEPS)
def test_affinity_keeps_every_instance_within_its_bound(targets: int, steps: list[tuple[int, int]]) -> None:
    router = PrefixAffinityRouter(targets)
    there: list[tuple[Request, int]] = []
    for choice, family in steps:
        if choice > 6 and there:
            router.done(*there.pop(choice % len(there)))
            continue
        each = text(8, family % 3)
        before = list(router.loads)
        target = router.route(each)
        bound = router.imbalance * len(there) / targets + router.slack
        assert before[target] <= bound or before[target] == min(before)
        there.append((each, target))
    for each, target in there:
        router.done(each, target)
    assert router.loads == [0] * targets
