"""Passes that are launched whole are cut into operators all the same.

On the CPU a capture is the work itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.engine.kernel import kernel
from tests.engine.tiny import config_file

from triptych.engine.runner import Runner
from triptych.engine.varlen import Varlen
from triptych.profiler.graphed import Passes, divided, is_graph, marked
from triptych.profiler.marks import Marks
from triptych.profiler.rows import rows_of, series_of
from triptych.profiler.sizes import Case, ImageCase
from triptych.profiler.statistics import Piece
from triptych.profiler.subject import BLOCK, Subject, build
from triptych.profiler.turns import Turns, times_of

MOST = 4


def captured(family: str, folder: Path, hold: Callable[[float], None]) -> Subject:
    """A model whose decodes are launched whole."""
    torch.set_num_threads(1)
    path = str(config_file(family, folder))
    plain = build(path, device="cpu", precision="fp32", tensor=1, kv_tokens=2048)
    runner = Runner(plain.loaded, blocks=64, block_size=BLOCK, attention=Varlen(kernel=kernel))
    runner.capture(MOST, marked(lambda run: run, plain.marks))
    assert runner.graphs is not None
    return replace(plain, runner=runner, text=Passes(runner, plain.marks, hold))


@pytest.mark.parametrize("family", ["llama", "opt", "qwen3_vl"])
def test_a_launch_is_divided_as_its_kernels_divide_their_time(family: str, tmp_path: Path) -> None:
    held: list[float] = []
    subject = captured(family, tmp_path, held.append)
    turn = Turns(subject, None).turn(Case(decodes=(20, 20, 20)))  # type: ignore[arg-type]
    assert {"qkv", "decode attention", "rope and KV write", "head", "norm"} <= set(turn.passes[0])
    assert "graph" not in turn.passes[0]
    for operators, whole in zip(turn.passes, turn.whole, strict=True):
        total = sum(seconds * times_of(subject, name) for name, seconds in operators.items())
        assert total == pytest.approx(whole, rel=1e-9)
    assert len(held) == 1, "how a pass divides is found out once"
    assert held[0] > 0


def test_prompts_are_launched_kernel_by_kernel(tmp_path: Path) -> None:
    subject = captured("llama", tmp_path, lambda _: pytest.fail("nothing is held up"))
    turn = Turns(subject, None).turn(Case(((20, 8),)))  # type: ignore[arg-type]
    assert "prefill attention" in turn.passes[0]


@pytest.mark.parametrize("case", [Case(((20, 8),)), ImageCase(((4, 6),))])
def test_where_marks_are_costly_a_pass_is_timed_without_them(
    case: Case | ImageCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mark that takes long makes no pass longer, and operators keep their shares of it."""
    subject = captured("qwen3_vl", tmp_path, lambda _: None)
    set_marks: list[str] = []
    stamp = Marks._stamp

    def slow(marks: Marks, name: str) -> None:
        set_marks.append(name)
        time.sleep(1e-3)
        stamp(marks, name)

    monkeypatch.setattr(Marks, "_stamp", slow)
    Turns(subject, None).turn(case)  # type: ignore[arg-type]
    assert len(set_marks) > 3 * 20, "each of three passes has all marks"
    turns = Turns(replace(subject, costly=True), None)  # type: ignore[arg-type]
    turns.turn(case)
    set_marks.clear()
    turn = turns.turn(case)
    assert set(set_marks) <= {"input", "head", "merger down"}
    assert len(turn.passes[0]) > 8


def test_without_its_hooks_a_model_runs_as_the_engine_runs_it(tmp_path: Path) -> None:
    """But for the mark behind the input, and for what stands behind the routers."""
    subject = captured("qwen3_moe", tmp_path, lambda _: None)

    def hooks() -> int:
        modules = list(subject.loaded.model.modules())
        return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in modules)

    before = hooks()
    with subject.hooks.out():
        assert hooks() == 1 + subject.layers
    assert hooks() == before > 10 * subject.layers


def test_experts_that_tokens_are_held_to_are_not_those_of_a_graph(tmp_path: Path) -> None:
    subject = captured("qwen3_moe", tmp_path, lambda _: None)
    case = Case(decodes=(16,) * 4, experts=2)
    assert subject.touched(case) == 2
    assert not is_graph(subject.passes(case)())


def test_at_as_few_tokens_as_graphs_have_operators_are_theirs() -> None:
    turns = [
        {
            "name": case.name,
            "passes": [{"qkv": 1.0, "prefill attention": 2.0}],
            "whole": [3.0],
            "waited": [0.0],
        }
        for case in (Case(((4, 0),)), Case(((5, 0),)))
    ]
    found = series_of(turns, 1)
    rows = {
        case.tokens: [row["operator"] for row in rows_of(case, found[case.name], MOST)]
        for case in (Case(((4, 0),)), Case(((5, 0),)))
    }
    assert rows == {4: ["prefill attention"], 5: ["qkv", "prefill attention"]}


def test_the_input_is_not_a_part_of_the_launch() -> None:
    launch = [Piece("input", 5.0), Piece("graph", 3.0), Piece("head", 1.0)]
    apart = [Piece("input", 9.0), Piece("qkv", 1.5), Piece("head", 0.5)]
    assert divided(launch, apart) == [Piece("input", 5.0), Piece("qkv", 3.0), Piece("head", 1.0)]
