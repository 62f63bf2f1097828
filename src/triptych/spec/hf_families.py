"""What the fields of a Hugging Face configuration mean, family by family.

Field names, and the values that hold where a field is absent, are those of the configuration
classes of Hugging Face transformers (`configuration_<family>.py`) or, for Qwen and InternLM, of
the model's own repository. Only what decides a size is read. Sizes of the language model have no
default here: a file that leaves them out is cut short rather than terse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from triptych.spec.hf_fields import Fields

Reader = Callable[[Fields], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class VisionFamily:
    """How a family's vision tower is read."""

    tower: Reader
    """From `vision_config` to the fields of `VisionModel`, without the pixel limits."""
    min_pixels: int
    max_pixels: int
    """Area limits in the `preprocessor_config.json` that the family was published with."""


@dataclass(frozen=True, slots=True)
class Family:
    """How the models of one `model_type` are read."""

    text: Reader
    """To the fields of `TextModel`."""
    vision: VisionFamily | None = None


def _rotary(fields: Fields) -> dict[str, Any]:
    """What all families but OPT and Qwen-1 call by the same names."""
    hidden, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    if hidden % heads and not fields.gives("head_dim"):
        raise fields.wrong("num_attention_heads", f"must divide hidden_size ({hidden}); use a divisor of it")
    kv_heads = fields.count("num_key_value_heads", default=heads)
    if heads % kv_heads:
        problem = f"{kv_heads} does not divide num_attention_heads ({heads}); use a divisor of it"
        raise fields.wrong("num_key_value_heads", problem)
    return {
        "layers": _layers(fields),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": fields.count("head_dim", default=hidden // heads),
        "intermediate": fields.count("intermediate_size"),
        "gated_mlp": True,
        "vocab": fields.count("vocab_size"),
        "tied_embeddings": fields.flag("tie_word_embeddings", default=False),
        "max_context": fields.count("max_position_embeddings"),
    }


def _llama(fields: Fields) -> dict[str, Any]:
    bias = fields.flag("attention_bias", default=False)
    mlp_bias = fields.flag("mlp_bias", default=False)
    return {**_rotary(fields), "qkv_bias": bias, "output_bias": bias, "mlp_bias": mlp_bias}


def _internlm(fields: Fields) -> dict[str, Any]:
    bias = fields.flag("bias", default=True)
    return {**_rotary(fields), "qkv_bias": bias, "output_bias": bias}


def _internlm3(fields: Fields) -> dict[str, Any]:
    bias = fields.flag("bias", default=False)
    qkv_bias = fields.flag("qkv_bias", default=False)
    return {**_rotary(fields), "qkv_bias": qkv_bias, "output_bias": bias, "mlp_bias": bias}


def _mistral(fields: Fields) -> dict[str, Any]:
    window = fields.count("sliding_window", default=0) or None
    if not fields.gives("sliding_window"):
        window = 4096
    return {**_rotary(fields), "sliding_window": window}


def _mixtral(fields: Fields) -> dict[str, Any]:
    common = _rotary(fields)
    experts = {
        **_routing(fields, "num_local_experts"),
        "intermediate": common["intermediate"],
        "layers": common["layers"],
    }
    window = fields.count("sliding_window", default=0) or None
    return {**common, "experts": experts, "sliding_window": window}


def _qwen(fields: Fields) -> dict[str, Any]:
    """Qwen-1: the MLP is half as wide as `intermediate_size` says, since that counts both its inputs."""
    heads = fields.count("num_attention_heads")
    bias = not fields.flag("no_bias", default=True)
    return {
        "layers": _layers(fields),
        "hidden": fields.count("hidden_size"),
        "heads": heads,
        "kv_heads": heads,
        "head_dim": fields.count("kv_channels", default=128),
        "intermediate": fields.count("intermediate_size") // 2,
        "gated_mlp": True,
        "vocab": fields.count("vocab_size"),
        "tied_embeddings": fields.flag("tie_word_embeddings", default=False),
        "max_context": fields.count("max_position_embeddings"),
        "qkv_bias": True,
        "output_bias": bias,
        "mlp_bias": bias,
    }


def _qwen2(fields: Fields) -> dict[str, Any]:
    return {**_rotary(fields), "qkv_bias": True, "sliding_window": _late_window(fields)}


def _qwen2_moe(fields: Fields) -> dict[str, Any]:
    shared = fields.count("shared_expert_intermediate_size")
    return {
        **_qwen2(fields),
        "qkv_bias": fields.flag("qkv_bias", default=True),
        "experts": _sparse_experts(fields, shared),
    }


def _qwen3(fields: Fields) -> dict[str, Any]:
    bias = fields.flag("attention_bias", default=False)
    return {
        **_rotary(fields),
        # Qwen3 fixes the head width whatever the hidden width (0.6B: 16 heads of 128 over 1024).
        "head_dim": fields.count("head_dim", default=128),
        "qkv_bias": bias,
        "output_bias": bias,
        "qk_norm": True,
        "sliding_window": _late_window(fields),
    }


def _qwen3_moe(fields: Fields) -> dict[str, Any]:
    return {**_qwen3(fields), "experts": _sparse_experts(fields, 0)}


def _phi(fields: Fields) -> dict[str, Any]:
    """Attention and MLP run in parallel behind one LayerNorm, and everything has a bias."""
    biases = ("qkv_bias", "output_bias", "mlp_bias", "norm_bias", "head_bias")
    shape = {"gated_mlp": False, "norms_per_layer": 1}
    return {**_rotary(fields), **shape, **dict.fromkeys(biases, True)}


def _opt(fields: Fields) -> dict[str, Any]:
    hidden, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    if hidden % heads:
        raise fields.wrong("num_attention_heads", f"must divide hidden_size ({hidden}); use a divisor of it")
    width = fields.count("word_embed_proj_dim", default=hidden)
    bias = fields.flag("enable_bias", default=True)
    return {
        "layers": _layers(fields),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": heads,
        "head_dim": hidden // heads,
        "intermediate": fields.count("ffn_dim"),
        "gated_mlp": False,
        "vocab": fields.count("vocab_size"),
        "tied_embeddings": fields.flag("tie_word_embeddings", default=True),
        "positions": "learned",
        "max_context": fields.count("max_position_embeddings"),
        "qkv_bias": bias,
        "output_bias": bias,
        "mlp_bias": bias,
        "norm_bias": True,
        "final_norm": fields.flag("do_layer_norm_before", default=True),
        "embedding_width": width if width != hidden else None,
    }


def _layers(fields: Fields) -> int:
    return fields.count("num_hidden_layers", most=100_000)


def _routing(fields: Fields, experts: str) -> dict[str, int]:
    """How many experts there are, by the field called `experts`, and work on a token."""
    count, top_k = fields.count(experts), fields.count("num_experts_per_tok")
    if top_k > count:
        raise fields.wrong("num_experts_per_tok", f"{top_k} is more than {experts} ({count}); lower it")
    return {"count": count, "top_k": top_k}


def _late_window(fields: Fields) -> int | None:
    """The attention window of Qwen2 and Qwen3, whose first `max_window_layers` layers have none."""
    if not fields.flag("use_sliding_window", default=False):
        return None
    window = fields.count("sliding_window", default=4096)
    layers = _layers(fields)
    first = fields.first_layers("max_window_layers", default=28)
    if first >= layers:
        return None
    if first:
        raise fields.wrong(
            "max_window_layers",
            f"{first} of {layers} layers attend to all tokens and the others to {window}, which is "
            "not modelled; set use_sliding_window to false",
        )
    return window


def _sparse_experts(fields: Fields, shared: int) -> dict[str, Any] | None:
    """Experts in every `decoder_sparse_step`-th layer but those of `mlp_only_layers`."""
    step = fields.count("decoder_sparse_step", default=1)
    plain = set(fields.indices("mlp_only_layers", default=()))
    routing = _routing(fields, "num_experts")
    layers = [layer for layer in range(_layers(fields)) if (layer + 1) % step == 0 and layer not in plain]
    if not layers:
        return None
    return {
        **routing,
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
    "opt": Family(_opt),
    "llama": Family(_llama),
    "mistral": Family(_mistral),
    "mixtral": Family(_mixtral),
    "qwen": Family(_qwen),
    "qwen2": Family(_qwen2),
    "qwen2_moe": Family(_qwen2_moe),
    "qwen3": Family(_qwen3),
    "qwen3_moe": Family(_qwen3_moe),
    "internlm": Family(_internlm),
    "internlm2": Family(_internlm),
    "internlm3": Family(_internlm3),
    "phi": Family(_phi),
    "qwen2_vl": Family(_qwen2, VisionFamily(_qwen2_tower, *_QWEN2_PIXELS)),
    "qwen2_5_vl": Family(_qwen2, VisionFamily(_qwen2_5_tower, *_QWEN2_PIXELS)),
    "qwen3_vl": Family(_qwen3, VisionFamily(_qwen3_tower, *_QWEN3_PIXELS)),
    "qwen3_vl_moe": Family(_qwen3_moe, VisionFamily(_qwen3_tower, *_QWEN3_PIXELS)),
}
"""By `model_type`."""
