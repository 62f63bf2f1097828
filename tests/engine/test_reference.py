"""Greedy output is that of `transformers` generate, whatever the scheduler, chunks, memory and company."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from triptych.engine.core import Engine
from triptych.engine.kernels.candidates import attention
from triptych.engine.kernels.linear import pack
from triptych.engine.loader import LoadedModel
from triptych.engine.messages import Abort, ImageInput, Sampling, Submit, Tokens
from triptych.engine.runner import Runner, patches
from triptych.policy import SCHEDULERS, EmbeddingCache, KVCache

from . import more, tiny

KERNELS = (("flash", "flash"), ("blocks of 128", "products"), ("blocks of 64", "embedding bags"))
"""Kernels of prompts and of single tokens."""
POLICIES = ("static", "orca", "vllm", "sarathi", "unified")
LONGEST = 20
"""Output tokens of the reference."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Prompt:
    tokens: list[int]
    images: list[ImageInput]
    expected: list[int]
    """What transformers makes of it."""


@dataclass(frozen=True)
class Family:
    """A model, and prompts with their reference."""

    model: LoadedModel
    prompts: Sequence[Prompt]


@cache
def family(name: str) -> Family:
    with TemporaryDirectory() as folder:
        reference = tiny.build(name, Path(folder), attention="eager", device="cpu")
        model = tiny.build(name, Path(folder))
    if tiny.DEVICE == "cpu":
        pack(model.model, model.dtype)
    chance = random.Random(name)
    roots = [[chance.randrange(500) for _ in range(60)] for _ in range(3)]
    prompts = []
    for index in range(9 if name in tiny.CONFIGS else 5):
        tokens = roots[index % 3][: chance.randrange(1, 60)]
        images = []
        if name in tiny.IMAGE_FAMILIES and index % 3:
            for _ in range(index % 3):
                image = picture(reference, chance.randrange(4))
                images.append(image)
                tokens = [*tokens, 508, *[510] * image.tokens, 509]
        tokens = tokens + [chance.randrange(500) for _ in range(chance.randrange(1, 20))]
        prompts.append(Prompt(tokens, images, generate(reference.model, tokens, images)))
    return Family(model, prompts)


def picture(model: LoadedModel, content: int) -> ImageInput:
    """One of a few images of random pixels."""
    tower = model.model.config.vision_config
    chance = torch.Generator().manual_seed(content)
    height, width = 2 + 2 * (content % 2), 4 + 2 * (content // 2)
    shape = (height * width, tower.in_channels, tower.patch_size**2)
    pixels = torch.randint(256, shape, generator=chance, dtype=torch.uint8).numpy().tobytes()
    grid, tokens = (1, height, width), height * width // 4
    return ImageInput(content, grid, tokens, pixels, mean=(120.0, 127.0, 134.0), std=(60.0, 70.0, 80.0))


def generate(model: Any, tokens: list[int], images: Sequence[ImageInput]) -> list[int]:
    """The reference."""
    more: dict[str, Any] = {}
    if images:
        more["image_grid_thw"] = torch.tensor([image.grid for image in images])
        frames = model.config.vision_config.temporal_patch_size
        more["pixel_values"] = torch.cat([patches(image, frames) for image in images])
        more["mm_token_type_ids"] = (torch.tensor([tokens]) == 510).int()
    ids = torch.tensor([tokens])
    more["attention_mask"] = torch.ones_like(ids)  # or token 0 would be taken for padding
    out = model.generate(
        ids, max_new_tokens=LONGEST, do_sample=False, eos_token_id=None, pad_token_id=0, **more
    )
    found: list[int] = out[0, len(tokens) :].tolist()
    return found


@dataclass(frozen=True)
class Plan:
    """How the requests of a run come and are scheduled."""

    policy: str
    knobs: dict[str, Any]
    blocks: int
    block_size: int
    prefix_cache: bool
    requests: list[tuple[int, int]]
    """Prompt and output tokens."""
    seed: int
    """Seed of arrivals and, on the CPU, of the choice of kernels."""


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    policy = draw(st.sampled_from(POLICIES))
    max_batch = draw(st.integers(1, 6))
    knobs: dict[str, Any] = {"max_batch": max_batch}
    if policy in ("vllm", "sarathi", "unified"):
        knobs["max_tokens"] = draw(st.sampled_from([max_batch, max_batch + 7, max_batch + 60]))
        if policy == "vllm":  # takes whole prompts
            knobs["max_tokens"] = 200
    block_size = draw(st.sampled_from([1, 4, 16]))
    return Plan(
        policy=policy,
        knobs=knobs,
        blocks=draw(st.integers(130, 300)) // block_size,
        block_size=block_size,
        prefix_cache=draw(st.booleans()),
        requests=draw(
            st.lists(st.tuples(st.integers(0, 8), st.integers(1, LONGEST)), min_size=1, max_size=8)
        ),
        seed=draw(st.integers(0, 2**20)),
    )


@pytest.mark.parametrize("name", tiny.CONFIGS)
@given(plan=plans())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_greedy_output_is_that_of_transformers(name: str, plan: Plan) -> None:
    check(name, plan)


@pytest.mark.parametrize("name", more.CONFIGS)
@given(plan=plans())
@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_so_it_is_of_further_families(name: str, plan: Plan) -> None:
    check(name, plan)


PREEMPTING = ("vllm", "sarathi", "unified")


@pytest.mark.parametrize(
    ("name", "policy"), [*product(tiny.CONFIGS, PREEMPTING), *zip(more.CONFIGS, cycle(PREEMPTING))]
)
def test_so_it_is_of_requests_that_were_preempted(name: str, policy: str) -> None:
    requests = [(number, LONGEST) for number in (0, 1, 2, 3, 4, 5, 6, 7, 8, 4, 7)]
    knobs = {"max_batch": 8, "max_tokens": 200 if policy == "vllm" else 60}
    engine = check(name, Plan(policy, knobs, 32, 4, prefix_cache=True, requests=requests, seed=5))
    assert engine.load().preemptions > 0


def check(name: str, plan: Plan) -> Engine:
    """Runs a plan and holds what comes out to the reference."""
    model, prompts = family(name).model, family(name).prompts
    kv = KVCache(plan.blocks, plan.block_size, prefix_cache=plan.prefix_cache)
    embeddings = EmbeddingCache(12, 4) if model.image_token_id is not None else None
    scheduler = SCHEDULERS[plan.policy](kv, embeddings, **plan.knobs)
    kernels = attention(*KERNELS[plan.seed % len(KERNELS)]) if tiny.DEVICE == "cpu" else None
    runner = Runner(model, blocks=plan.blocks, block_size=plan.block_size, attention=kernels)
    engine = Engine(runner, scheduler)
    chance = random.Random(plan.seed)
    requests = [(which % len(prompts), count) for which, count in plan.requests]
    to_come = [
        Submit(
            str(number),
            prompts[which].tokens,
            Sampling(max_tokens=count, temperature=0.0, ignore_eos=True),
            prompts[which].images,
        )
        for number, (which, count) in enumerate(requests)
    ]
    got: dict[str, list[int]] = {submit.id: [] for submit in to_come}
    gone: set[str] = set()
    while to_come or engine.busy:
        messages: list[Submit | Abort] = [
            to_come.pop(0) for _ in range(len(to_come)) if chance.random() < 0.3
        ]
        if chance.random() < 0.03:
            gone.add(chance.choice(list(got)))
            messages.append(Abort(max(gone)))
        for output in engine.turn(messages):
            assert isinstance(output, Tokens), output
            got[output.id] += output.tokens
        engine.compute()
    for number, (which, count) in enumerate(requests):
        expected = prompts[which].expected[:count]
        if str(number) in gone:
            assert got[str(number)] == expected[: len(got[str(number)])]
        else:
            assert got[str(number)] == expected
    assert engine.scheduler.kv.used == 0
    return engine
