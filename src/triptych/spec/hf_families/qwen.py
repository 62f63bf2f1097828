"""Qwen, text and vision."""

from __future__ import annotations

from typing import Any

from triptych.spec.hf_families.common import (
    Family,
    VisionFamily,
    attention_bias,
    layer_count,
    rotary,
    routing,
    window,
    windows,
)
from triptych.spec.hf_families.context import max_context
from triptych.spec.hf_fields import Fields


def _qwen(fields: Fields) -> dict[str, Any]:
    """Qwen-1: the MLP is half as wide as `intermediate_size` says, since that counts both its inputs."""
    heads = fields.count("num_attention_heads")
    bias = not fields.flag("no_bias", default=True)
    return {
        "layers": layer_count(fields),
        "hidden": fields.count("hidden_size"),
        "heads": heads,
        "kv_heads": heads,
        "head_dim": fields.count("kv_channels", default=128),
        "intermediate": fields.count("intermediate_size") // 2,
        "gated_mlp": True,
        "vocab": fields.count("vocab_size"),
        "tied_embeddings": fields.flag("tie_word_embeddings", default=False),
        "max_context": max_context(fields),
        "qkv_bias": True,
        "output_bias": bias,
        "mlp_bias": bias,
    }


def _qwen2(fields: Fields) -> dict[str, Any]:
    return {**rotary(fields), "qkv_bias": True, **_late_windows(fields)}


def _qwen2_moe(fields: Fields) -> dict[str, Any]:
    """Windows, where they are used, are in every other of the first `max_window_layers` layers."""
    first = fields.whole("max_window_layers", default=28)
    return {
        **rotary(fields),
        **windows(fields, _used_window(fields), lambda layer: layer % 2 == 0 and layer < first),
        "qkv_bias": fields.flag("qkv_bias", default=True),
        "experts": _experts(fields, fields.count("shared_expert_intermediate_size")),
    }


def _qwen3(fields: Fields) -> dict[str, Any]:
    """The head's width is fixed whatever the hidden width (0.6B: 16 heads of 128 over 1024)."""
    common = rotary(fields, head_dim=128)
    return {**common, **attention_bias(fields), **_late_windows(fields), "qk_norm": True}


def _qwen3_moe(fields: Fields) -> dict[str, Any]:
    """Where a window is used, all layers have it."""
    return {
        **rotary(fields),
        **attention_bias(fields),
        "sliding_window": _used_window(fields),
        "qk_norm": True,
        "experts": _experts(fields, 0),
    }


def _used_window(fields: Fields) -> int | None:
    return window(fields, default=4096) if fields.flag("use_sliding_window", default=False) else None


def _late_windows(fields: Fields) -> dict[str, Any]:
    """The windows of Qwen2 and Qwen3, whose first `max_window_layers` layers have none."""
    full = fields.whole("max_window_layers", default=28)
    return windows(fields, _used_window(fields), lambda layer: layer >= full)


def _experts(fields: Fields, shared: int) -> dict[str, Any] | None:
    """Experts in every `decoder_sparse_step`-th layer but those of `mlp_only_layers`."""
    step = fields.count("decoder_sparse_step", default=1)
    plain = set(fields.indices("mlp_only_layers", default=()))
    found = routing(fields, "num_experts", "num_local_experts")
    layers = [layer for layer in range(layer_count(fields)) if (layer + 1) % step == 0 and layer not in plain]
    if not layers:
        return None
    return {
        **found,
        "intermediate": fields.count("moe_intermediate_size"),
        "shared_intermediate": shared,
        "layers": len(layers),
    }


def _qwen2_tower(fields: Fields) -> dict[str, Any]:
    hidden = fields.count("embed_dim", default=1280)
    return {
        "depth": fields.count("depth", default=32),
        "hidden": hidden,
        "heads": fields.count("num_heads", default=16),
        "intermediate": hidden * fields.count("mlp_ratio", default=4),
        "gated_mlp": False,
        "out_hidden": fields.count("hidden_size", default=3584),
        **_patches(fields, side=14),
    }


def _qwen2_5_tower(fields: Fields) -> dict[str, Any]:
    return {
        "depth": fields.count("depth", default=32),
        "hidden": fields.count("hidden_size", default=3584),
        "heads": fields.count("num_heads", default=16),
        "intermediate": fields.count("intermediate_size", default=3420),
        "gated_mlp": True,
        "norm_bias": False,
        "window": fields.count("window_size", default=112),
        "full_attention_blocks": fields.indices("fullatt_block_indexes", default=(7, 15, 23, 31)),
        "out_hidden": fields.count("out_hidden_size", default=3584),
        **_patches(fields, side=14),
    }


def _qwen3_tower(fields: Fields) -> dict[str, Any]:
    return {
        "depth": fields.count("depth", default=27),
        "hidden": fields.count("hidden_size", default=1152),
        "heads": fields.count("num_heads", default=16),
        "intermediate": fields.count("intermediate_size", default=4304),
        "gated_mlp": False,
        "patch_bias": True,
        "position_embeddings": fields.count("num_position_embeddings", default=2304),
        "deepstack_blocks": fields.indices("deepstack_visual_indexes", default=(8, 16, 24)),
        "out_hidden": fields.count("out_hidden_size", default=3584),
        **_patches(fields, side=16),
    }


def _patches(fields: Fields, *, side: int) -> dict[str, Any]:
    return {
        "patch": fields.count("patch_size", default=side),
        "temporal_patch": fields.count("temporal_patch_size", default=2),
        "channels": fields.count("in_channels", "in_chans", default=3),
        "merge": fields.count("spatial_merge_size", default=2),
    }


_QWEN2_PIXELS = (56 * 56, 12_845_056)
_QWEN3_PIXELS = (256 * 256, 16_777_216)

FAMILIES: dict[str, Family] = {
    "qwen": Family(_qwen),
    "qwen2": Family(_qwen2),
    "qwen2_moe": Family(_qwen2_moe),
    "qwen3": Family(_qwen3),
    "qwen3_moe": Family(_qwen3_moe),
    "qwen2_vl": Family(_qwen2, VisionFamily(_qwen2_tower, *_QWEN2_PIXELS)),
    "qwen2_5_vl": Family(_qwen2, VisionFamily(_qwen2_5_tower, *_QWEN2_PIXELS)),
    "qwen3_vl": Family(_qwen3, VisionFamily(_qwen3_tower, *_QWEN3_PIXELS)),
    "qwen3_vl_moe": Family(_qwen3_moe, VisionFamily(_qwen3_tower, *_QWEN3_PIXELS)),
}
