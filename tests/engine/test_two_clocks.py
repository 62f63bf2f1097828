"""One policy, two clocks: given what an engine recorded, the simulator forms the same batches."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from time import monotonic_ns
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from triptych.engine.clock import Clock
from triptych.engine.core import Engine
from triptych.engine.log import Log
from triptych.engine.messages import Abort, ImageInput, Sampling, Submit
from triptych.engine.runner import Runner
from triptych.policy import SCHEDULERS, EmbeddingCache, KVCache, Request, Scheduler, Status

from . import tiny
from .paper import IMAGE_TOKEN, VOCABULARY, PaperClock, PaperRunner
from .replay import retrace, watch

POLICIES = ("static", "orca", "vllm", "sarathi", "unified")


@dataclass
class World:
    """A scheduler's kind and memory, and what comes."""

    policy: str
    block_size: int
    blocks: int
    prefix_cache: bool
    embedding_blocks: int
    knobs: dict[str, Any]
    seed: int
    requests: int
    rate: float
    aborts: float
    images: bool = True

    def scheduler(self) -> Scheduler:
        kv = KVCache(self.blocks, self.block_size, prefix_cache=self.prefix_cache)
        return SCHEDULERS[self.policy](kv, EmbeddingCache(self.embedding_blocks, 4), **self.knobs)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    policy = draw(st.sampled_from(POLICIES))
    max_batch = draw(st.integers(1, 8))
    knobs: dict[str, Any] = {"max_batch": max_batch, "max_patches": draw(st.sampled_from([16, 64]))}
    if policy in ("vllm", "sarathi", "unified"):
        knobs["max_tokens"] = max_batch + draw(st.integers(1, 40))
    block_size = draw(st.sampled_from([1, 4, 16]))
    return World(
        policy=policy,
        block_size=block_size,
        blocks=draw(st.integers(60, 200)) // block_size,
        prefix_cache=draw(st.booleans()),
        embedding_blocks=draw(st.integers(6, 16)),
        knobs=knobs,
        seed=draw(st.integers(0, 2**32)),
        requests=draw(st.integers(1, 25)),
        rate=draw(st.sampled_from([0.2, 1.0, 4.0])),
        aborts=draw(st.sampled_from([0.0, 0.05])),
    )


def submits(world: World, chance: random.Random) -> list[Submit]:
    """Prompts that share beginnings, some with images of which some are the same."""
    roots = [[chance.randrange(48) for _ in range(40)] for _ in range(2)]
    made = []
    for number in range(world.requests):
        tokens = roots[chance.randrange(2)][: chance.randrange(1, 40)]
        images = []
        for _ in range(chance.choice([0, 0, 1, 2]) if world.images else 0):
            size = chance.randrange(1, 6)
            images.append(ImageInput(size * 10 + chance.randrange(2), (1, 2, 2 * size), size, b""))
            tokens = [*tokens, chance.randrange(48), *[IMAGE_TOKEN] * size]
        tokens = tokens + [chance.randrange(48) for _ in range(chance.randrange(1, 12))]
        sampling = Sampling(max_tokens=chance.randrange(1, 30), temperature=0.0)
        made.append(Submit(str(number), tokens, sampling, images))
    return made


def run_engine(world: World, runner: Runner | None = None) -> tuple[Engine, Log, list[object], list[Request]]:
    """Runs an engine until all have ended: on a real model by the wall clock, or else on paper."""
    chance = random.Random(world.seed)
    scheduler = world.scheduler()
    batches = watch(scheduler)
    log = Log(scheduler)
    paper: Any = PaperRunner(world.blocks, world.block_size, seed=world.seed)
    clock: Any = PaperClock(world.seed) if runner is None else Clock()
    engine = Engine(runner or paper, scheduler, log=log, clock=clock)
    requests: list[Request] = []
    arrived = log.arrived

    def note(request: Request, now: float) -> int:
        requests.append(request)
        return arrived(request, now)

    log.arrived = note  # type: ignore[method-assign]
    to_come = submits(world, chance)[::-1]
    alive: list[str] = []
    rounds = 0
    while to_come or engine.busy:
        messages: list[Submit | Abort] = []
        while to_come and chance.random() < world.rate / (1 + world.rate):
            submit = to_come.pop()
            if runner is not None:
                submit = msgspec.structs.replace(submit, sent=monotonic_ns() - chance.randrange(10**6))
            messages.append(submit)
            alive.append(submit.id)
        if alive and chance.random() < world.aborts:
            sent = clock._ticks - chance.randrange(60) if runner is None else monotonic_ns()
            status = chance.choice(("aborted", "timed_out"))
            messages.append(Abort(chance.choice(alive), status, max(sent, 0)))
        engine.turn(messages)
        engine.compute()
        rounds += 1
        assert rounds < 5000, "the engine does not come to an end"
    return engine, log, batches, requests


TWO_STOP_AT_ONCE = World(
    policy="static",
    block_size=1,
    blocks=80,
    prefix_cache=True,
    embedding_blocks=6,
    knobs={"max_batch": 2, "max_patches": 16},
    seed=17882276,
    requests=21,
    rate=0.2,
    aborts=0.0,
)
"""Requests 1 and 0 decode in this order, and draw a stop token at the same step: released in another order,
their blocks are evicted in another order too, and a later request finds more or fewer of them."""


@given(world=worlds())
@example(world=TWO_STOP_AT_ONCE)
@settings(max_examples=125, deadline=None)
def test_the_simulator_forms_the_batches_of_the_engine(world: World) -> None:
    _, log, batches, requests = run_engine(world)
    scheduler = world.scheduler()
    again = watch(scheduler)
    simulator = retrace(log, requests, scheduler)
    assert again == batches
    assert simulator.recorder.end == log.recorder.end
    assert simulator.recorder.first_token.tobytes() == log.recorder.first_token.tobytes()
    assert simulator.recorder.generated_tokens == log.recorder.generated_tokens
    assert simulator.recorder.status == log.recorder.status
    assert simulator.recorder.spans == log.recorder.spans


@pytest.mark.parametrize("policy", POLICIES)
def test_so_it_does_for_a_real_model_under_the_wall_clock(policy: str, tmp_path: Path) -> None:
    knobs: dict[str, Any] = {"max_batch": 4}
    if policy in ("vllm", "sarathi", "unified"):
        knobs["max_tokens"] = 128 if policy == "vllm" else 24
    world = World(
        policy=policy,
        block_size=4,
        blocks=40,
        prefix_cache=True,
        embedding_blocks=16,
        knobs=knobs,
        seed=3,
        requests=40,
        rate=0.5,
        aborts=0.05,
        images=False,
    )
    model = tiny.build("llama", tmp_path)
    _, log, batches, requests = run_engine(world, Runner(model, blocks=world.blocks, block_size=4))
    scheduler = world.scheduler()
    again = watch(scheduler)
    simulator = retrace(log, requests, scheduler)
    assert again == batches
    assert simulator.recorder.end == log.recorder.end
    assert len(batches) > 50


@given(world=worlds())
@settings(max_examples=125, deadline=None)
def test_nothing_is_left_when_all_have_ended(world: World) -> None:
    engine, log, _, _ = run_engine(world)
    scheduler = engine.scheduler
    assert scheduler.kv.free == scheduler.kv.blocks
    assert scheduler.embeddings is not None
    assert scheduler.embeddings.free == scheduler.embeddings.blocks
    assert engine._pages.free == scheduler.kv.blocks - scheduler.kv.cached
    assert set(engine.runner.embeddings) == set(scheduler.embeddings._idle)
    assert not engine._sequences
    assert not any(status in (0, 1, 2) for status in log.recorder.status)


def test_early_ends_at_one_boundary_come_in_order_of_arrival() -> None:
    scheduler = SCHEDULERS["unified"](KVCache(40, 4), max_batch=4, max_tokens=64)
    log = Log(scheduler)
    dropped: list[int] = []
    abort = log.abort

    def note(request: Request, status: Status, now: float) -> None:
        dropped.append(request.id)
        abort(request, status, now)

    log.abort = note  # type: ignore[method-assign]
    runner: Any = PaperRunner(40, 4)
    engine = Engine(runner, scheduler, log=log, clock=PaperClock())
    sampling = Sampling(max_tokens=9, temperature=0.0, ignore_eos=True)
    stopped = Sampling(max_tokens=9, temperature=0.0, stop_token_ids=tuple(range(VOCABULARY)))
    engine.turn([Submit("0", [1], sampling), Submit("1", [2], stopped), Submit("2", [3], sampling)])
    engine.compute()
    engine.turn([Abort("2"), Abort("0")])
    assert dropped == [0, 1, 2]
