"""The engine's own time, by driving it as its worker does."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import torch
from tests.engine.tiny import config_file

from triptych.profiler.host import Loop
from triptych.profiler.marks import CPUClock
from triptych.profiler.sizes import HostCase, Limits
from triptych.profiler.subject import build

LIMITS = Limits(tokens=64, batch=4, context=128, kv=2048, patches=0)
CASES = [HostCase(decodes=1), HostCase(decodes=4), HostCase(prompt=48)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_engines_own_time_is_told_apart_from_the_model(case: HostCase, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    path = str(config_file("llama", tmp_path))
    subject = build(path, device="cpu", precision="fp32", tensor=1, kv_tokens=2048)
    clock = subject.marks.clock
    with closing(Loop(subject, LIMITS, str(tmp_path))) as loop:
        for _ in range(2):  # nothing is left of the turn before
            iterations = loop.iterations(case)
            assert len(iterations) >= 3
            for each in iterations:
                assert (each.prompt_tokens, each.sampled) == (case.prompt, max(1, case.decodes))
                assert 0 < each.host < 0.1
                assert 0 < each.sampler < 0.1
    assert subject.marks.clock is clock
    assert isinstance(clock, CPUClock)
