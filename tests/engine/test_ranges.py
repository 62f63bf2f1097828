"""What profilers of CUDA show: a range for images, for batches with prompts, and for decodes alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from triptych.engine.core import Engine
from triptych.engine.messages import ImageInput, Sampling, Submit
from triptych.engine.runner import Runner
from triptych.policy import SCHEDULERS, EmbeddingCache, KVCache

from . import tiny


def test_each_phase_has_its_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []

    @contextmanager
    def note(_: Runner, name: str) -> Iterator[None]:
        names.append(name)
        yield

    monkeypatch.setattr(Runner, "_range", note)
    scheduler = SCHEDULERS["unified"](KVCache(20, 4), EmbeddingCache(4, 4), max_batch=2, max_tokens=16)
    engine = Engine(Runner(tiny.build("qwen2_5_vl", tmp_path), blocks=20, block_size=4), scheduler)
    image = ImageInput(1, (1, 2, 4), 2, bytes(2 * 4 * 3 * 14 * 14))
    tokens = [508, 510, 510, 509, *range(20)]
    engine.turn([Submit("0", tokens, Sampling(max_tokens=3, temperature=0.0, ignore_eos=True), [image])])
    while engine.busy:
        engine.compute()
        engine.turn()
    assert names == ["encode", "prompt", "prompt", "token", "token"]


def test_ranges_are_those_of_nvtx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda.nvtx, "range", lambda name: f"range {name}")
    runner: Any = SimpleNamespace(_device=torch.device("cuda"))
    assert Runner._range(runner, "token") == "range token"
