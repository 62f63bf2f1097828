"""What lies in a device's memory, and which error says that it does not fit."""

from __future__ import annotations

from typing import Any

import pytest

from triptych.cost.memory import plan_memory
from triptych.cost.parallelism import check_parallelism
from triptych.spec.base import SpecError
from triptych.spec.deployment import SchedulerSpec
from triptych.spec.device import Device
from triptych.spec.model import Model

from .shapes import (
    LLAMA_2_70B,
    LLAMA_3_8B,
    QWEN3_30B_A3B,
    TINY,
    TINY_EXPERTS,
    TINY_VISION,
    device,
    pool,
)


def test_llama_3_8b_on_an_a100() -> None:
    plan = plan_memory(LLAMA_3_8B, device(), pool(), field="pools.p")
    assert plan.weights_bytes == pytest.approx(2 * 8.03e9, rel=1e-3)
    assert plan.kv_bytes_per_block == 16 * 131_072  # 128 KiB a token
    assert plan.embedding_bytes == 0
    free = 0.9 * 80e9 - plan.weights_bytes - plan.activation_bytes
    assert plan.kv_blocks == free // plan.kv_bytes_per_block


def test_activations_by_hand() -> None:
    # 512 tokens of sarathi, widest at the gated MLP: residual and input 2 x 8, gate, up and product 3 x 16;
    # then 32-bit logits of 256 sequences over 32 words.
    plan = plan_memory(TINY, device(), pool(), field="pools.p")
    assert plan.activation_bytes == 512 * (16 + 48) * 2 + 4 * 256 * 32
    wide = pool(scheduler=SchedulerSpec(policy="vllm"))
    assert plan_memory(TINY, device(), wide, field="pools.p").activation_bytes == (
        8192 * (16 + 48) * 2 + 4 * 256 * 32
    )


def test_tensor_ranks_share_weights_and_kv_heads() -> None:
    one, four = (plan_memory(LLAMA_3_8B, device(), pool(tensor=n), field="") for n in (1, 4))
    assert four.weights_bytes == pytest.approx(one.weights_bytes / 4, rel=1e-3)
    assert four.kv_bytes_per_block == one.kv_bytes_per_block / 4
    sixteen = plan_memory(LLAMA_3_8B, device(), pool(tensor=16), field="")
    assert sixteen.kv_bytes_per_block == one.kv_bytes_per_block / 8  # one head on each, in two copies


def test_pipeline_lanes_share_the_blocks() -> None:
    one, two = (plan_memory(LLAMA_3_8B, device(), pool(pipeline=n), field="") for n in (1, 2))
    assert two.kv_bytes_per_block == one.kv_bytes_per_block / 2
    free = 0.9 * 80e9 - two.weights_bytes - two.activation_bytes
    assert two.kv_blocks == free // two.kv_bytes_per_block // 2


def test_pipeline_lanes_of_one_scheduler_all_have_all_blocks() -> None:
    apart, together = (
        plan_memory(LLAMA_3_8B, device(), pool(pipeline=2, scheduler=SchedulerSpec(policy=policy)), field="")
        for policy in ("vllm", "unified")
    )
    assert together.kv_blocks // 2 == apart.kv_blocks


def test_expert_weights_are_spread_over_all_ranks() -> None:
    one, four = (plan_memory(QWEN3_30B_A3B, device(), pool(data=n), field="") for n in (1, 4))
    experts = 48 * 128 * 3 * 2048 * 768 * 2
    assert one.weights_bytes - four.weights_bytes == pytest.approx(experts * 3 / 4)


def test_a_pool_holds_what_its_phases_need() -> None:
    plans = {
        phases: plan_memory(TINY_VISION, device(), pool(phases.split()), field="")
        for phases in ("encode", "prefill decode", "encode prefill decode", "decode")
    }
    encode, text, union = (plans[name] for name in ("encode", "prefill decode", "encode prefill decode"))
    assert encode.weights_bytes + text.weights_bytes == union.weights_bytes
    assert (encode.kv_blocks, encode.kv_bytes_per_block) == (0, 0)
    assert text.kv_blocks > union.kv_blocks > 0
    assert encode.embedding_bytes == text.embedding_bytes == 4e9
    assert plans["decode"].embedding_bytes == 0


def test_the_embedding_cache_is_a_tenth_of_a_small_device_or_as_declared() -> None:
    small = device(memory=10e9)
    assert plan_memory(TINY_VISION, small, pool(["prefill", "decode"]), field="").embedding_bytes == 1e9
    declared = pool(["prefill", "decode"], embedding_cache=2e9)
    assert plan_memory(TINY_VISION, small, declared, field="").embedding_bytes == 2e9


def test_declared_blocks_are_taken() -> None:
    plan = plan_memory(LLAMA_3_8B, device(), pool(kv_blocks=2588), field="")
    assert plan.kv_blocks == 2588


def test_narrow_weights_and_cache_take_less() -> None:
    narrow = pool(precision={"weights": "fp8", "kv": "fp8"})
    plan = plan_memory(LLAMA_3_8B, device(), narrow, field="")
    kept = 2 * 128_256 * 4096  # embedding and head stay in 16 bits
    assert plan.weights_bytes == pytest.approx(8.03e9 + kept, rel=1e-3)
    assert plan.kv_bytes_per_block == 16 * 65_536


# Errors


def error_of(model: Model, on: Device, **changes: Any) -> str:
    with pytest.raises(SpecError) as error:
        plan_memory(model, on, pool(**changes), field="pools.p", file="d.yaml")
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith("d.yaml: pools.p")
    return line


def test_what_is_missing_and_what_would_fit() -> None:
    line = error_of(LLAMA_2_70B, device())
    assert "66." in line  # 138 GB of weights and the activations, 72 GB usable
    assert line.endswith("set parallel to tensor: 2 or pipeline: 2")
    assert plan_memory(LLAMA_2_70B, device(), pool(tensor=2), field="").kv_blocks > 0
    assert plan_memory(LLAMA_2_70B, device(), pool(pipeline=2), field="").kv_blocks > 0


def test_what_would_fit_goes_on_from_what_is_declared() -> None:
    small = device(memory=24e9)
    assert error_of(LLAMA_2_70B, small, tensor=2).endswith("set parallel to tensor: 8 or pipeline: 4")


def test_nothing_fits_a_tiny_device() -> None:
    line = error_of(LLAMA_2_70B, device(memory=1e9))
    assert line.endswith("use a larger device or a narrower precision")


def test_more_declared_blocks_than_the_device_has_memory_for() -> None:
    line = error_of(LLAMA_3_8B, device(), kv_blocks=45_000)
    room = (80e9 - 2 * 8.03e9) / 1e9  # 2 MiB a block
    assert line.startswith(
        "d.yaml: pools.p.kv_blocks: 45,000 blocks take 94.37 GB on each A100-80GB, which has "
    )
    assert float(line.split("which has ")[1].split(" GB")[0]) == pytest.approx(room, rel=1e-3)
    assert line.endswith("declare at most 30,488, or remove it for what memory leaves")


def test_lanes_of_a_pipeline_hold_their_declared_blocks_on_the_same_devices() -> None:
    most = 2 * 30_488
    assert plan_memory(LLAMA_3_8B, device(), pool(kv_blocks=34_000, pipeline=2), field="").kv_blocks == 34_000
    assert "kv_blocks" in error_of(LLAMA_3_8B, device(), kv_blocks=most, pipeline=2)


def test_declared_blocks_may_take_more_than_the_fraction_leaves() -> None:
    """What an engine that runs is known to hold is true, whatever the fraction says."""
    assert plan_memory(LLAMA_3_8B, device(), pool(kv_blocks=30_000, memory_fraction=0.5), field="")


def test_declared_blocks_do_not_hide_weights_that_do_not_fit() -> None:
    assert "does not fit" in error_of(LLAMA_2_70B, device(), kv_blocks=100)


@pytest.mark.parametrize(
    ("model", "changes", "line"),
    [
        (
            LLAMA_3_8B,
            {"tensor": 3},
            "parallel.tensor: 3 does not divide the 32 attention heads and 8 KV heads",
        ),
        (
            LLAMA_3_8B,
            {"pipeline": 5},
            "parallel.pipeline: 5 does not divide the 32 layers; use 1, 2, 4, 8, 16 or 32",
        ),
        (
            LLAMA_3_8B,
            {"data": 2},
            "parallel.data: 2 data ranks share experts, of which Llama-3-8B has none; "
            "use data: 1 and raise instances",
        ),
        (LLAMA_3_8B, {"expert": 2}, "parallel.expert: Llama-3-8B has no experts; use expert: 1"),
        (LLAMA_3_8B, {"phases": ["encode", "prefill", "decode"]}, "phases: Llama-3-8B has no vision tower"),
        (TINY_EXPERTS, {"data": 2, "pipeline": 2}, "parallel.data: 2 data ranks need pipeline: 1, not 2"),
        (
            TINY_EXPERTS,
            {"tensor": 2, "expert": 4},
            "parallel.expert: 4 does not divide both tensor x data = 2 and the 8 experts; use 1 or 2",
        ),
        (TINY_EXPERTS, {"data": 3, "expert": 3}, "parallel.expert: 3 does not divide both"),
        (
            TINY_VISION,
            {"phases": ["encode", "prefill"], "tensor": 4},
            "parallel.tensor: 4 does not divide the "
            "4 attention heads and 2 vision heads and 2 KV heads; use 1 or 2",
        ),
        (
            TINY_VISION,
            {"phases": ["encode"], "tensor": 4},
            "parallel.tensor: 4 does not divide the 2 vision heads",
        ),
        (
            TINY_VISION,
            {"phases": ["encode"], "pipeline": 2},
            "parallel.pipeline: a pool that only encodes has pipeline: 1, not 2",
        ),
        (TINY_VISION, {"phases": ["encode"], "data": 2}, "parallel.data: a pool that only encodes"),
    ],
)
def test_illegal_parallelism(model: Model, changes: dict[str, Any], line: str) -> None:
    assert error_of(model, device(), **changes).startswith(f"d.yaml: pools.p.{line}")


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        (LLAMA_3_8B, {"tensor": 16}),  # 8 KV heads, each kept twice
        (TINY_EXPERTS, {"tensor": 2, "data": 4, "expert": 8}),
        (TINY_EXPERTS, {"pipeline": 2, "tensor": 4, "expert": 2}),
        (TINY_VISION, {"phases": ["prefill", "decode"], "tensor": 4}),  # vision heads do not matter here
        (TINY_VISION, {"phases": ["encode"], "tensor": 2}),
    ],
)
def test_legal_parallelism(model: Model, changes: dict[str, Any]) -> None:
    check_parallelism(model, pool(**changes), "pools.p")
