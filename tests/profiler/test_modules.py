"""Marks stand where `cost` has operators, in every family, and change nothing that is computed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from tests.engine.tiny import ALL, CONFIGS, IMAGE_FAMILIES, config_file

from triptych.cost.placement import runs, stage_parts
from triptych.engine.loader import load
from triptych.engine.runner import Runner
from triptych.profiler import subject as subject_module
from triptych.profiler.rows import rows_of as rows_of_series
from triptych.profiler.rows import series_of
from triptych.profiler.sizes import Case, ImageCase
from triptych.profiler.statistics import Row
from triptych.profiler.subject import Subject, build, layers_that_fit
from triptych.profiler.turns import Turn, Turns, times_of
from triptych.spec.base import SpecError

MIXED = Case(((20, 0), (7, 12)), (9, 30), check=True)
LAYER = {"norm", "qkv", "rope and KV write", "attention output", "residual add"}


def subject_of(family: str, folder: Path, *, tensor: int = 1, precision: str = "fp32") -> Subject:
    torch.set_num_threads(1)
    path = str(config_file(family, folder))
    return build(path, device="cpu", precision=precision, tensor=tensor, kv_tokens=2048)


def turn_of(subject: Subject, case: Case | ImageCase) -> tuple[Turn, dict[str, object]]:
    turns = Turns(subject, None)  # type: ignore[arg-type]  # the engine is another test's
    return turns.turn(case), turns.about(case)


def rows_of(subject: Subject, case: Case | ImageCase) -> dict[str, Row]:
    turn, about = turn_of(subject, case)
    series = series_of([{"name": case.name, **asdict(turn), "about": about}], 1)
    return {row["operator"]: row for row in rows_of_series(case, series[case.name])}


@pytest.mark.parametrize("family", ALL)
def test_every_piece_is_an_operator_of_the_model(family: str, tmp_path: Path) -> None:
    subject = subject_of(family, tmp_path)
    prompt, decode = rows_of(subject, Case(((24, 8),))), rows_of(subject, Case(decodes=(16, 16, 16)))
    assert set(prompt) >= LAYER
    assert "prefill attention" in prompt and "decode attention" not in prompt
    assert "decode attention" in decode and "prefill attention" not in decode
    assert prompt["norm"]["units"] == 24
    assert (prompt["prefill attention"]["units"], prompt["prefill attention"]["history"]) == (24, 8)
    assert (decode["decode attention"]["decodes"], decode["decode attention"]["decode_kv"]) == (3, 16)
    assert prompt["head"]["units"] == 1 and decode["head"]["units"] == 3
    wanted = {"experts", "router"} if subject.spec.text.experts else {"mlp down"}
    assert wanted <= set(prompt)


@pytest.mark.parametrize("family", ["opt", "llama", "phi", "qwen3_moe", "qwen3_vl"])
def test_operators_times_their_number_are_the_whole_pass(family: str, tmp_path: Path) -> None:
    subject = subject_of(family, tmp_path)
    turn, _ = turn_of(subject, Case(((32, 0),)))
    assert len(turn.passes) == len(turn.waited) > 1
    for operators, whole in zip(turn.passes, turn.whole, strict=True):
        total = sum(seconds * times_of(subject, name) for name, seconds in operators.items())
        assert total == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize("family", IMAGE_FAMILIES)
def test_the_vision_tower_is_cut_into_its_operators(family: str, tmp_path: Path) -> None:
    subject = subject_of(family, tmp_path)
    rows = rows_of(subject, ImageCase(((4, 8),)))
    tower = rows.pop("vision tower")
    assert {"patch embedding", "vision qkv", "vision full attention", "merger down"} <= set(rows)
    assert ("vision window attention" in rows) == (subject.spec.vision.window is not None)  # type: ignore[union-attr]
    total = sum(row["seconds"] * times_of(subject, name) for name, row in rows.items())
    assert total == pytest.approx(tower["seconds"], rel=1e-6)
    assert {row["units"] for row in rows.values()} == {32}


@pytest.mark.parametrize("family", ["opt", "llama", "qwen3_moe", "qwen2_5_vl"])
def test_marks_change_nothing_that_is_computed(family: str, tmp_path: Path) -> None:
    subject = subject_of(family, tmp_path)
    plain = load(f"random:{config_file(family, tmp_path)}", dtype=torch.float32)
    runner = Runner(plain, blocks=subject.runner.blocks, block_size=16)
    runner.warm_up()  # history is read where it has left keys and values
    work = subject.work(MIXED)
    assert torch.allclose(subject.runner.logits(work), runner.logits(work), atol=1e-4)


def test_a_fused_activation_is_measured_with_its_product(tmp_path: Path) -> None:
    fused = rows_of(subject_of("opt", tmp_path), Case(((16, 0),)))
    assert "mlp up+mlp activation" in fused
    assert not {"mlp up", "mlp activation"} & set(fused)
    gated = rows_of(subject_of("llama", tmp_path), Case(((16, 0),)))
    assert {"mlp up", "mlp activation"} <= set(gated)


def test_experts_can_be_held_to_few(tmp_path: Path) -> None:
    subject = subject_of("qwen3_moe", tmp_path)
    held = rows_of(subject, Case(((24, 0),), experts=2))["experts"]
    free = rows_of(subject, Case(((24, 0),)))["experts"]
    assert held["touched"] == 2
    assert 2 < free["touched"] <= 4


def test_mixed_batches_are_measured_whole(tmp_path: Path) -> None:
    rows = rows_of(subject_of("llama", tmp_path), MIXED)
    assert set(rows) == {"forward"}
    row = rows["forward"]
    assert (row["units"], row["history"], row["decodes"], row["longest_kv"]) == (27, 12, 2, 30)


@pytest.mark.parametrize("family", [*CONFIGS])
def test_a_shard_holds_what_the_cost_model_says(family: str, tmp_path: Path) -> None:
    whole, half = (subject_of(family, tmp_path, tensor=tensor, precision="bf16") for tensor in (1, 2))
    assert rows_of(half, Case(((16, 0),)))
    ratio = {}
    for subject in (whole, half):
        parts = stage_parts(subject.spec, 1)
        said = {
            name: operator.weights * runs(operator, parts)
            for name, operator in subject.operators.items()
            if operator.kind == "matmul" and name != "patch embedding"  # a convolution
        }
        ratio[subject.tensor] = sum(said.values())
    assert half.loaded.vocab_size == whole.loaded.vocab_size // 2
    assert half.loaded.kv_heads == max(1, whole.loaded.kv_heads // 2)
    assert matrices(half) / matrices(whole) == pytest.approx(ratio[2] / ratio[1], rel=0.03)


def matrices(subject: Subject) -> int:
    """Elements of linear layers and experts."""
    total = 0
    for path, module in subject.loaded.model.named_modules():
        if hasattr(module, "in_features"):
            total += module.in_features * module.out_features
        elif path.endswith((".experts", ".mlp.gate")):
            total += sum(weight.numel() for weight in module.parameters(recurse=False))
    return total


def test_of_a_large_model_a_few_layers_are_built() -> None:
    assert layers_that_fit(80, layer_bytes=1.8e9, free=1.4e11) == 4
    assert layers_that_fit(12, layer_bytes=1.4e7, free=2e10) == 12
    assert layers_that_fit(32, layer_bytes=4e8, free=1.4e11) == 10
    assert layers_that_fit(2, layer_bytes=1e12, free=1e9) == 2


@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "qwen2_5_vl"])
def test_operators_are_per_layer_however_many_were_built(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject_module, "_FEWEST", 1)
    monkeypatch.setattr(subject_module, "_ENOUGH", 1.0)
    subject = subject_of(family, tmp_path)
    assert (subject.layers, subject.spec.text.layers) == (1, 2)
    assert times_of(subject, "qkv") == 1
    assert times_of(subject, "norm") == 2
    assert times_of(subject, "head") == 1
    assert "qkv" in rows_of(subject, Case(((16, 0),)))


def test_matrices_that_are_several_in_one_are_not_split(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"--tp: .* has gate_up_proj, .*; measure it at 1"):
        subject_of("phi3", tmp_path, tensor=2)
