"""What profilers of CUDA show: a range for images, for batches with prompts, and for decodes alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from triptych.engine.core import Engine
from triptych.engine.messages import ImageInput, Sampling, Submit
from triptych.engine.runner import Runner, range_on
from triptych.policy import SCHEDULERS, EmbeddingCache, KVCache

from . import tiny


def test_each_phase_has_its_range(tmp_path: Path) -> None:
    names: list[str] = []

    @contextmanager
    def note(name: str) -> Iterator[None]:
        names.append(name)
        yield

    scheduler = SCHEDULERS["unified"](KVCache(20, 4), EmbeddingCache(4, 4), max_batch=2, max_tokens=16)
    engine = Engine(Runner(tiny.build("qwen2_5_vl", tmp_path), blocks=20, block_size=4), scheduler)
    engine.runner.range = note
    image = ImageInput(1, (1, 2, 4), 2, bytes(2 * 4 * 3 * 14 * 14))
    tokens = [508, 510, 510, 509, *range(20)]
    engine.turn([Submit("0", tokens, Sampling(max_tokens=3, temperature=0.0, ignore_eos=True), [image])])
    while engine.busy:
        engine.compute()
        engine.turn()
    assert names == ["encode", "prompt", "prompt", "token", "token"]


def test_ranges_are_those_of_nvtx(monkeypatch: pytest.MonkeyPatch) -> None:
    made: Any = lambda name: f"range {name}"  # noqa: E731
    monkeypatch.setattr(torch.cuda.nvtx, "range", made)
    assert range_on(torch.device("cuda"))("token") == "range token"
    with range_on(torch.device("cpu"))("token") as nothing:
        assert nothing is None
