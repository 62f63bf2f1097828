"""Families built as Llama is: norms before attention and MLP, SwiGLU or nearly, rotary positions."""

from __future__ import annotations

from typing import Any

from triptych.spec.hf_families.common import (
    Family,
    after_the_first,
    attention_bias,
    everywhere,
    rotary,
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
    "granite": Family(_llama),
    "granitemoe": Family(_granite_moe),
    "granitemoeshared": Family(_granite_moe),
    "helium": Family(_helium),
    "hunyuan_v1_dense": Family(_hunyuan),
    "minimax_m2": Family(_minimax_m2),
    "seed_oss": Family(_seed_oss),
    "smollm3": Family(_smollm3),
}
