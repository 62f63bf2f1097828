"""Families built as Llama is: norms before attention and MLP, SwiGLU or nearly, rotary positions."""

from __future__ import annotations

from typing import Any

from triptych.spec.hf_families.common import (
    Family,
    after_the_first,
    attention_bias,
    beside_shared,
    every_other_window,
    everywhere,
    rotary,
    routing,
    where_sparse,
    window,
    windows,
)
from triptych.spec.hf_fields import Fields


def _llama(fields: Fields) -> dict[str, Any]:
    mlp_bias = fields.flag("mlp_bias", default=False)
    return {**rotary(fields), **attention_bias(fields), "mlp_bias": mlp_bias}


def _arcee(fields: Fields) -> dict[str, Any]:
    """Squared ReLU between two matrices."""
    return {**_llama(fields), "gated_mlp": False}


def _internlm(fields: Fields) -> dict[str, Any]:
    bias = fields.flag("bias", default=True)
    return {**rotary(fields), "qkv_bias": bias, "output_bias": bias}


def _internlm3(fields: Fields) -> dict[str, Any]:
    bias = fields.flag("bias", default=False)
    qkv_bias = fields.flag("qkv_bias", default=False)
    return {**rotary(fields), "qkv_bias": qkv_bias, "output_bias": bias, "mlp_bias": bias}


def _mistral(fields: Fields) -> dict[str, Any]:
    return {**rotary(fields), "sliding_window": window(fields, default=4096)}


def _ministral(fields: Fields) -> dict[str, Any]:
    size = window(fields, default=4096)
    return {**rotary(fields), **windows(fields, size, lambda layer: True)}


def _ministral3(fields: Fields) -> dict[str, Any]:
    return {**rotary(fields, head_dim=128), "sliding_window": window(fields)}


def _mixtral(fields: Fields) -> dict[str, Any]:
    common = rotary(fields)
    experts = everywhere(fields, common, "num_local_experts")
    return {**common, "experts": experts, "sliding_window": window(fields)}


def _granite_moe(fields: Fields) -> dict[str, Any]:
    common = rotary(fields)
    experts = {
        **everywhere(fields, common, "num_local_experts"),
        "shared_intermediate": fields.whole("shared_intermediate_size", default=0),
        "shared_gate": False,
    }
    return {**common, **attention_bias(fields), "experts": experts}


def _granite_swa(fields: Fields) -> dict[str, Any]:
    return {**_llama(fields), **_granite_windows(fields)}


def _granite_moe_swa(fields: Fields) -> dict[str, Any]:
    return {**_granite_moe(fields), **_granite_windows(fields)}


def _granite_windows(fields: Fields) -> dict[str, Any]:
    """Sinks in all layers; every fourth, from the first on, sees all tokens."""
    size = window(fields, default=128)
    return {**windows(fields, size, lambda layer: layer % 4 != 0), "sinks": True}


def _gpt_oss(fields: Fields) -> dict[str, Any]:
    """Biases everywhere, sinks, and windows. Weights that a checkpoint keeps in MXFP4 count as any others."""
    common = rotary(fields, head_dim=64)
    experts = {**everywhere(fields, common, "num_local_experts"), "bias": True, "router_bias": True}
    return {
        **common,
        **attention_bias(fields, default=True),
        **every_other_window(fields, default=128),
        "experts": experts,
        "sinks": True,
    }


def _minimax_m2(fields: Fields) -> dict[str, Any]:
    common = rotary(fields, head_dim=128)
    experts = everywhere(fields, common, "num_local_experts")
    return {**common, "experts": experts, "qk_norm": True, "qk_norm_shared": False}


def _smollm3(fields: Fields) -> dict[str, Any]:
    """Every fourth layer has no rotary positions; only those can have a window."""
    size = window(fields) if fields.flag("use_sliding_window", default=False) else None
    rotates = fields.indices("no_rope_layers", default=())
    interval = fields.count("no_rope_layer_interval", default=4)

    def windowed(layer: int) -> bool:
        return not (rotates[layer] if layer < len(rotates) else (layer + 1) % interval)

    mlp_bias = fields.flag("mlp_bias", default=False)
    return {
        **rotary(fields, tied=True),
        **attention_bias(fields),
        **windows(fields, size, windowed),
        "mlp_bias": mlp_bias,
    }


def _cwm(fields: Fields) -> dict[str, Any]:
    size = window(fields, default=8192)
    mlp_bias = fields.flag("mlp_bias", default=False)
    common = rotary(fields, head_dim=128)
    return {**common, **windows(fields, size, lambda layer: layer % 4 != 0), "mlp_bias": mlp_bias}


def _seed_oss(fields: Fields) -> dict[str, Any]:
    return {
        **rotary(fields, head_dim=128),
        "qkv_bias": fields.flag("attention_bias", default=True),
        "output_bias": fields.flag("attention_out_bias", default=False),
        "mlp_bias": fields.flag("mlp_bias", default=False),
    }


def _ernie4_5(fields: Fields) -> dict[str, Any]:
    bias = fields.flag("use_bias", default=False)
    biases = dict.fromkeys(("qkv_bias", "output_bias", "mlp_bias"), bias)
    return {**rotary(fields, head_dim=128, tied=True), **biases}


def _ernie4_5_moe(fields: Fields) -> dict[str, Any]:
    """Experts in every n-th layer of a range, beside shared ones."""
    common = rotary(fields, tied=True)
    interval = fields.count("moe_layer_interval", default=1)
    first = fields.whole("moe_layer_start_index", default=1)
    last = fields.whole("moe_layer_end_index", default=common["layers"] - 1)
    layers = sum((layer + 1) % interval == 0 for layer in range(first, min(last + 1, common["layers"])))
    shared = fields.whole("moe_num_shared_experts", default=2)
    experts = beside_shared(fields, layers, shared, lambda: routing(fields, "moe_num_experts", each="moe_k"))
    bias = fields.flag("use_bias", default=False)
    biases = dict.fromkeys(("qkv_bias", "output_bias", "mlp_bias", "head_bias"), bias)
    return {**common, **biases, "experts": experts and {**experts, "router_bias": True}}


def _hyperclovax(fields: Fields) -> dict[str, Any]:
    """Norms before attention and MLP, and, if wanted, after them."""
    norms = 4 if fields.flag("use_post_norm", default=True) else 2
    return {**_llama(fields), "norms_per_layer": norms}


def _mellum(fields: Fields) -> dict[str, Any]:
    """As Qwen3-MoE, with windows in some layers."""
    return {
        **rotary(fields, head_dim=128),
        **attention_bias(fields),
        **windows(fields, window(fields, default=1024), lambda layer: False),
        "qk_norm": True,
        "experts": where_sparse(fields, dense=0, shared=0),
    }


def _helium(fields: Fields) -> dict[str, Any]:
    common = rotary(fields, head_dim=128)
    return {
        **common,
        "qkv_bias": fields.flag("attention_bias", default=False),
        "mlp_bias": fields.flag("mlp_bias", default=False),
    }


def _hunyuan(fields: Fields) -> dict[str, Any]:
    return {**rotary(fields), **attention_bias(fields), "qk_norm": True}


def _dots1(fields: Fields) -> dict[str, Any]:
    size = window(fields, default=4096)
    full = fields.whole("max_window_layers", default=62)
    return {
        **rotary(fields),
        **attention_bias(fields),
        **windows(fields, size, lambda layer: layer >= full),
        "qk_norm": True,
        "experts": after_the_first(fields, dense=0),
    }


FAMILIES: dict[str, Family] = {
    "llama": Family(_llama),
    "mistral": Family(_mistral),
    "ministral": Family(_ministral),
    "ministral3": Family(_ministral3),
    "mixtral": Family(_mixtral),
    "internlm": Family(_internlm),
    "internlm2": Family(_internlm),
    "internlm3": Family(_internlm3),
    "arcee": Family(_arcee),
    "cwm": Family(_cwm),
    "dots1": Family(_dots1),
    "ernie4_5": Family(_ernie4_5),
    "ernie4_5_moe": Family(_ernie4_5_moe),
    "granite": Family(_llama),
    "granitemoe": Family(_granite_moe),
    "granitemoeshared": Family(_granite_moe),
    "granite_swa": Family(_granite_swa),
    "granitemoe_swa": Family(_granite_moe_swa),
    "gpt_oss": Family(_gpt_oss),
    "helium": Family(_helium),
    "hunyuan_v1_dense": Family(_hunyuan),
    "hyperclovax": Family(_hyperclovax),
    "mellum": Family(_mellum),
    "minimax_m2": Family(_minimax_m2),
    "seed_oss": Family(_seed_oss),
    "smollm3": Family(_smollm3),
}
