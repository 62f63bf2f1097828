"""A model decomposes into operators whose FLOP and bytes can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from triptych.cost.loads import NO_LOAD, Load, Over, loads
from triptych.cost.operators import Formats, Operator
from triptych.cost.placement import operators, runs, stage_parts
from triptych.spec.deployment import Pool
from triptych.spec.model import Model

from .shapes import LLAMA_3_8B, QWEN3_30B_A3B, TINY, TINY_EXPERTS, TINY_VISION, device, pool


def of_device(model: Model, pool: Pool) -> dict[str, Operator]:
    found = operators(model, device(), None, pool.parallel, Formats.of(pool.precision))
    assert len({operator.name for operator in found}) == len(found)
    return {operator.name: operator for operator in found}


def load_of(model: Model, **counts: float) -> dict[Over, Load]:
    return loads(model, **{**NO_LOAD, **{name: np.array([float(n)]) for name, n in counts.items()}})


def flops_of(model: Model, **counts: float) -> float:
    load = load_of(model, **counts)
    parts = stage_parts(model, 1)
    return sum(
        runs(operator, parts) * float(operator.flops(load[operator.over])[0])
        for operator in of_device(model, pool()).values()
    )


# Tiny: hidden 8, 4 heads of 2 over 2 KV heads, MLP 16 gated, vocabulary 32, bf16.


def test_projections_of_the_tiny_model_by_hand() -> None:
    found = of_device(TINY, pool())
    load = load_of(TINY, tokens=10, sampled=3)
    qkv = found["qkv"]  # 8 -> 8 queries, 4 keys, 4 values
    assert qkv.flops(load["tokens"]) == 2 * 10 * 8 * 16
    assert qkv.bytes(load["tokens"]) == 2 * (8 * 16 + 10 * (8 + 16))
    up = found["mlp up"]  # 8 -> gate 16, up 16
    assert up.flops(load["tokens"]) == 2 * 10 * 8 * 32
    assert up.bytes(load["tokens"]) == 2 * (8 * 32 + 10 * (8 + 32))
    head = found["head"]
    assert head.flops(load["sampled"]) == 2 * 3 * 8 * 32
    assert head.bytes(load["sampled"]) == 2 * (8 * 32 + 3 * (8 + 32))


def test_attention_of_the_tiny_model_by_hand() -> None:
    found = of_device(TINY, pool())
    decode = found["decode attention"]
    load = load_of(TINY, decodes=5, decode_kv=100)["decode"]
    assert decode.flops(load) == 4 * 4 * 2 * 100  # a key-query product and a value sum per head
    assert decode.moved(load) == 2 * (2 * 2) * 2 * 100  # keys and values of 2 heads of 2, 2 bytes
    assert decode.bytes(load) == 2 * (2 * 2) * 2 * 100 + 5 * 2 * 8 * 2  # queries in, outputs out
    prefill = found["prefill attention"]
    load = load_of(TINY, prefill_tokens=4, prefill_pairs=10, prefill_kv=4)["prefill"]
    assert prefill.flops(load) == 4 * 4 * 2 * 10


def test_loads_may_be_arrays() -> None:
    up = of_device(TINY, pool())["mlp up"]
    load = loads(TINY, **{**NO_LOAD, "tokens": np.array([1.0, 2.0, 10.0])})["tokens"]
    assert up.flops(load).tolist() == [512, 1024, 5120]


def test_vision_attends_within_windows_in_some_blocks_and_to_the_whole_image_in_others() -> None:
    found = of_device(TINY_VISION, pool(["encode", "prefill", "decode"]))
    full, windowed = found["vision full attention"], found["vision window attention"]
    assert (full.times, windowed.times) == (1, 3)
    load = load_of(TINY_VISION, patches=64, patch_pairs=64**2)
    assert full.flops(load["full"]) == 4 * 8 * 64 * 64
    assert windowed.flops(load["window"]) == 4 * 8 * 64 * 4  # 28 pixels: 2 x 2 patches
    small = load_of(TINY_VISION, patches=2, patch_pairs=4)  # an image within one window
    assert windowed.flops(small["window"]) == 4 * 8 * 4


def test_vision_merger_works_on_four_patches_at_a_time() -> None:
    found = of_device(TINY_VISION, pool(["encode", "prefill", "decode"]))
    load = load_of(TINY_VISION, patches=64)["patches"]
    assert found["merger up"].flops(load) == 2 * 16 * 32 * 32
    assert found["merger down"].flops(load) == 2 * 16 * 32 * 8


@pytest.mark.parametrize("model", [TINY, LLAMA_3_8B])
def test_a_token_costs_two_flop_a_parameter_where_context_is_tiny(model: Model) -> None:
    text = model.text
    vectors = text.layers * text.norm_parameters + text.hidden  # norms: no matrix product
    matrices = text.parameters - text.embedding_parameters - vectors  # nor has a lookup
    assert flops_of(model, tokens=1, sampled=1) == 2 * matrices


def test_a_token_of_a_mixture_costs_two_flop_an_active_parameter() -> None:
    model = QWEN3_30B_A3B
    weights = model.active_parameters - model.text.embedding_parameters
    assert flops_of(model, tokens=1, sampled=1) == pytest.approx(2 * weights, rel=1e-3)


@pytest.mark.parametrize("model", [TINY, TINY_EXPERTS, TINY_VISION, LLAMA_3_8B, QWEN3_30B_A3B])
def test_operators_hold_the_models_parameters(model: Model) -> None:
    parts = stage_parts(model, 1)
    phases = ["encode", "prefill", "decode"] if model.vision else ["prefill", "decode"]
    held = sum(op.weights * runs(op, parts) for op in of_device(model, pool(phases)).values())
    assert held / 2 == pytest.approx(model.parameters, rel=0.06 if "tiny" in model.name else 1e-3)


# Mixture of experts


def test_expected_experts_touched() -> None:
    up = of_device(TINY_EXPERTS, pool())["experts up"]
    load = loads(TINY_EXPERTS, **{**NO_LOAD, "tokens": np.array([0.0, 1.0, 2.0, 1e6])})["pooled"]
    one_expert = 2 * 8 * 32
    # E (1 - (1 - k/E)^n) for E = 8, k = 2: one token touches 2, two touch 3.5, many touch all
    assert up.moved(load) == pytest.approx(np.array([0, 2, 3.5, 8]) * one_expert)
    assert up.flops(load)[1] == 2 * 2 * 8 * 32  # two experts work on a token


@pytest.mark.parametrize("expert", [1, 2, 4])
def test_experts_lie_over_all_ranks_whatever_the_groups(expert: int) -> None:
    whole = of_device(TINY_EXPERTS, pool())["experts up"]
    split = of_device(TINY_EXPERTS, pool(tensor=2, data=2, expert=expert))["experts up"]
    assert split.weights == whole.weights / 4
    assert split.flop == whole.flop / 4


def test_data_ranks_exchange_tokens_by_gather_or_by_all_to_all() -> None:
    gather = of_device(TINY_EXPERTS, pool(data=4))
    assert gather["expert dispatch"].traffic == 2 * 8 * 4  # every rank sees all four ranks' tokens
    assert "experts all-reduce" not in gather
    to_all = of_device(TINY_EXPERTS, pool(data=4, expert=4))
    reached = 4 * (1 - (3 / 4) ** 2)  # groups that hold at least one of a token's two experts
    assert to_all["expert dispatch"].traffic == pytest.approx(2 * 8 * reached)
    assert "expert dispatch" not in of_device(TINY_EXPERTS, pool(tensor=4, expert=4))


# Parallelism and precision


def test_tensor_parallelism_splits_matrices_and_adds_all_reduces() -> None:
    whole, half = of_device(LLAMA_3_8B, pool()), of_device(LLAMA_3_8B, pool(tensor=2))
    for name in ("qkv", "attention output", "mlp up", "mlp down", "head"):
        assert half[name].weights == whole[name].weights / 2
        assert half[name].flop == whole[name].flop / 2
    assert half["attention all-reduce"].traffic == half["mlp all-reduce"].traffic == 2 * 4096
    assert not any(operator.kind == "network" for operator in whole.values())


def test_each_rank_keeps_a_kv_head_where_there_are_fewer_than_ranks() -> None:
    eight, sixteen = of_device(LLAMA_3_8B, pool(tensor=8)), of_device(LLAMA_3_8B, pool(tensor=16))
    assert eight["decode attention"].kv == sixteen["decode attention"].kv == 2 * 128 * 2


def test_narrow_weights_leave_embedding_head_and_router_in_16_bits() -> None:
    narrow = of_device(QWEN3_30B_A3B, pool(precision={"weights": "int4"}))
    bf16 = of_device(QWEN3_30B_A3B, pool())
    for name in ("qkv", "experts up", "experts down"):
        assert narrow[name].weights == bf16[name].weights / 4
    for name in ("embedding", "head", "router", "norm"):
        assert narrow[name].weights == bf16[name].weights


def test_attention_is_narrow_only_where_the_cache_is_too() -> None:
    assert of_device(TINY, pool(precision={"compute": "fp8"}))["decode attention"].precision == "bf16"
    both = pool(precision={"compute": "fp8", "kv": "fp8"})
    assert of_device(TINY, both)["decode attention"].precision == "fp8"


# Pipeline


def test_layers_are_dealt_evenly_and_those_without_experts_come_first() -> None:
    mixed = TINY_EXPERTS.model_copy(
        update={"text": TINY_EXPERTS.text.model_copy(update={"layers": 6})}
    )  # 4 plain layers, 2 with experts
    parts = stage_parts(mixed, 3)
    assert [stage["layer"] for stage in parts] == [2, 2, 2]
    assert [stage["dense_layer"] for stage in parts] == [2, 2, 0]
    assert [stage["expert_layer"] for stage in parts] == [0, 0, 2]
    assert [stage["embedding"] for stage in parts] == [1, 0, 0]
    assert [stage["head"] for stage in parts] == [0, 0, 1]
