"""Decodes by captured passes give what plain passes give, at every size of batch.

On the CPU a capture is the work itself, over the same buffers that CUDA's graphs read: what is filled, padded
and read is the same. What a GPU forbids in a capture is held to apart.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from triptych.engine.attention import PIECE_BY_PIECE
from triptych.engine.core import Engine
from triptych.engine.graphs import CUDACapture, sizes
from triptych.engine.loader import LoadedModel
from triptych.engine.messages import ImageInput, Sampling, Submit, Tokens
from triptych.engine.runner import Runner, Work
from triptych.engine.sequence import Sequence
from triptych.engine.varlen import Varlen
from triptych.policy import SCHEDULERS, EmbeddingCache, KVCache, Request

from . import tiny
from .kernel import kernel

MOST, BLOCK, BLOCKS = 11, 4, 150


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Captures:
    """What was captured, and how often each was launched."""

    def __init__(self) -> None:
        self.launched: list[int] = []

    def __call__(self, run: Callable[[], None]) -> Callable[[], object]:
        place = len(self.launched)
        self.launched.append(0)

        def launch() -> None:
            self.launched[place] += 1
            run()

        return launch


def runner(model: LoadedModel, captures: Captures | None, *, paged: bool = False) -> Runner:
    """With captured decodes, or plain."""
    attention = Varlen(BLOCK if paged else None, kernel=kernel)
    made = Runner(model, blocks=BLOCKS, block_size=BLOCK, attention=attention if captures else PIECE_BY_PIECE)
    if captures is not None:
        made.capture(MOST, captures)
        assert made.graphs is not None
    return made


def test_sizes_are_powers_of_two_and_the_largest() -> None:
    assert sizes(1) == [1]
    assert sizes(8) == [1, 2, 4, 8]
    assert sizes(11) == [1, 2, 4, 8, 11]


@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("family", ["opt", "mistral", "qwen3", "mixtral", "qwen3_vl"])
def test_every_batch_of_decodes_gives_the_same_logits(family: str, paged: bool, tmp_path: Path) -> None:
    model = tiny.build(family, tmp_path, device="cpu")
    captures = Captures()
    plain, captured = runner(model, None), runner(model, captures, paged=paged)
    work = prefilled(plain, captured)
    chance = random.Random(0)
    for count in range(1, MOST + 1):
        batch = chance.sample(work, count)
        expected, found = plain.logits(batch), captured.logits(batch)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    # Captured from the largest down: 11, 8, 4, 2, 1.
    assert captures.launched == [3, 4, 2, 1, 1]


def prefilled(*runners: Runner, block: int = BLOCK) -> list[Work]:
    """Sequences of which each runner has the prompts, and the decodes that come next."""
    chance = random.Random(1)
    work, page = [], 0
    for _ in range(MOST):
        tokens = [chance.randrange(500) for _ in range(chance.randrange(2, 40))]
        pages = list(range(page, page - (-len(tokens) // block)))
        page += len(pages)
        request = Request(0, len(tokens), 1)
        work.append(
            Work(Sequence("", request, tokens, Sampling(max_tokens=1), pages=pages), len(tokens) - 1, 1, True)
        )
    for each in runners:
        each.logits([Work(sequence, 0, history, False) for sequence, history, _, _ in work])
    return work


@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("prefix_cache", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen2_moe", "qwen2_5_vl"])
def test_an_engine_says_the_same(family: str, prefix_cache: bool, paged: bool, tmp_path: Path) -> None:
    model = tiny.build(family, tmp_path, device="cpu")
    captures = Captures()
    expected = said(runner(model, None), prefix_cache)
    assert said(runner(model, captures, paged=paged), prefix_cache) == expected
    if paged or not prefix_cache:  # a beginning in common is somewhere else
        assert sum(captures.launched) > 20


def said(runner: Runner, prefix_cache: bool) -> dict[str, list[int]]:
    """Greedy answers to requests that come one after another, some with a beginning in common."""
    images = runner.model.image_token_id is not None
    kv = KVCache(BLOCKS, BLOCK, prefix_cache=prefix_cache)
    embeddings = EmbeddingCache(12, 4) if images else None
    engine = Engine(runner, SCHEDULERS["unified"](kv, embeddings, max_batch=MOST, max_tokens=24))
    chance = random.Random(2)
    common = [chance.randrange(500) for _ in range(20)]
    to_come = []
    for number in range(14):
        tokens = common[: chance.choice((0, 9, 20))] + [
            chance.randrange(500) for _ in range(chance.randrange(1, 16))
        ]
        shown = []
        if images and number % 3 == 0:
            shown = [ImageInput(1, (1, 2, 4), 2, bytes(2 * 4 * 3 * 14 * 14))]
            tokens += [508, 510, 510]  # the prompt ends with the image: its last chunk may be a single token
        sampling = Sampling(max_tokens=chance.randrange(8, 24), temperature=0.0, ignore_eos=True)
        to_come.append(Submit(str(number), tokens, sampling, shown))
    got: dict[str, list[int]] = {}
    while to_come or engine.busy:
        for output in engine.turn([to_come.pop(0)] if to_come and chance.random() < 0.5 else []):
            assert isinstance(output, Tokens), output
            got.setdefault(output.id, []).extend(output.tokens)
        engine.compute()
    return got


def test_requests_that_are_scattered_take_the_plain_way(tmp_path: Path) -> None:
    model = tiny.build("llama", tmp_path, device="cpu")
    captures = Captures()
    captured = runner(model, captures)
    (work, *_) = prefilled(captured)
    work.sequence.pages[:] = work.sequence.pages[::-1]
    captured.logits([work])
    assert sum(captures.launched) == 0


def test_rows_that_stand_empty_leave_the_cache_alone(tmp_path: Path) -> None:
    captured = runner(tiny.build("llama", tmp_path, device="cpu"), Captures())
    work = prefilled(captured)
    captured.logits(work[:9])  # of 11
    before = captured._pool.keys.clone()
    captured.logits(work[:9])
    held = slice(0, BLOCKS * BLOCK)
    assert torch.equal(captured._pool.keys[:, held], before[:, held])
    own = [item.sequence.pages[item.history // BLOCK] * BLOCK + item.history % BLOCK for item in work]
    assert captured._pool.keys[:, own[:9]].abs().sum(dim=(2, 3)).all()
    assert not captured._pool.keys[:, own[9:]].any()


def test_attention_that_goes_piece_by_piece_has_no_graphs(tmp_path: Path) -> None:
    plain = runner(tiny.build("llama", tmp_path, device="cpu"), None)
    plain.capture(MOST, Captures())
    assert plain.graphs is None


def test_a_model_that_cannot_be_captured_runs_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(run: Callable[[], None]) -> Callable[[], object]:
        raise RuntimeError("called a synchronizing CUDA operation\nsomewhere")

    captured = Runner(
        tiny.build("llama", tmp_path, device="cpu"),
        blocks=BLOCKS,
        block_size=BLOCK,
        attention=Varlen(kernel=kernel),
    )
    with caplog.at_level("INFO", logger="triptych.engine"):
        captured.capture(MOST, refuse)
    assert captured.graphs is None
    assert caplog.messages == ["decodes run without graphs: called a synchronizing CUDA operation"]
    prefilled(captured)


FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "unique", "bincount")
"""What reads the device's values on the host, makes sizes of them, or copies fresh values to the device."""


class NothingWaits(TorchDispatchMode):
    """Fails where a pass on CUDA would wait for the device."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        assert not name.startswith(FORBIDDEN), f"a decode calls {name}"
        return func(*args, **(kwargs or {}))


class Still:
    """A kernel that looks at no values."""

    def __call__(self, query: Any, keys: Any, values: Any, lines: Any, scoring: Any) -> Any:
        return query.contiguous()


CAPPED = ("gemma2", "vaultgemma")
"""Whose attention goes piece by piece."""


def test_a_model_with_capped_scores_runs_without_graphs(tmp_path: Path) -> None:
    for family in CAPPED:
        captured = Runner(
            tiny.build(family, tmp_path, device="cpu"),
            blocks=BLOCKS,
            block_size=BLOCK,
            attention=Varlen(kernel=kernel),
        )
        captured.capture(2, lambda run: run)
        assert captured.graphs is None
        prefilled(captured)


@pytest.mark.parametrize("family", [name for name in tiny.ALL if name not in CAPPED])
def test_a_decode_never_waits_for_the_device(family: str, tmp_path: Path) -> None:
    captured = Runner(
        tiny.build(family, tmp_path, device="cpu"),
        blocks=BLOCKS,
        block_size=BLOCK,
        attention=Varlen(kernel=Still()),
    )

    def watched(run: Callable[[], None]) -> Callable[[], object]:
        with NothingWaits():
            run()
        return run

    captured.capture(2, watched)
    assert captured.graphs is not None


@pytest.mark.skipif(tiny.DEVICE == "cpu", reason="needs a GPU")
@pytest.mark.parametrize("family", ["opt", "llama", "mistral", "qwen3", "qwen3_moe", "qwen3_vl"])
def test_graphs_of_a_gpu_give_the_same_logits(family: str, tmp_path: Path) -> None:
    model = tiny.build(family, tmp_path, dtype=torch.bfloat16)
    plain, captured = (Runner(model, blocks=40, block_size=16) for _ in range(2))
    captured.capture(MOST, CUDACapture())
    assert captured.graphs is not None
    work = prefilled(plain, captured, block=16)
    for count in range(1, MOST + 1):
        expected, found = plain.logits(work[:count]), captured.logits(work[:count])
        scale = expected.std().item()
        torch.testing.assert_close(found, expected, rtol=0.0, atol=0.1 * scale)
