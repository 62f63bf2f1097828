"""Families after GPT-2 and OPT: LayerNorm, biases, or an MLP of two matrices. And Phi, which begins there."""

from __future__ import annotations

from typing import Any

from triptych.spec.hf_families.common import Family, attention_bias, layer_count, rotary, window
from triptych.spec.hf_fields import Fields

_BIASES = ("qkv_bias", "output_bias", "mlp_bias")
_OPT_SPARE_POSITIONS = 2
"""OPT keeps two rows of its position table free (`OPTLearnedPositionalEmbedding`)."""


def _opt(fields: Fields) -> dict[str, Any]:
    hidden, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    width = fields.count("word_embed_proj_dim", default=hidden)
    return {
        "layers": layer_count(fields),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": heads,
        "head_dim": _split(fields, "num_attention_heads", "hidden_size"),
        "intermediate": fields.count("ffn_dim"),
        "gated_mlp": False,
        "vocab": fields.count("vocab_size"),
        "tied_embeddings": fields.flag("tie_word_embeddings", default=True),
        "positions": "learned",
        "spare_positions": _OPT_SPARE_POSITIONS,
        "max_context": fields.count("max_position_embeddings"),
        **dict.fromkeys(_BIASES, fields.flag("enable_bias", default=True)),
        "norm_bias": True,
        "final_norm": fields.flag("do_layer_norm_before", default=True),
        "embedding_width": width if width != hidden else None,
    }


def _gpt2(fields: Fields) -> dict[str, Any]:
    hidden, heads = fields.count("n_embd"), fields.count("n_head")
    return {
        "layers": fields.count("n_layer", most=100_000),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": heads,
        "head_dim": _split(fields, "n_head", "n_embd"),
        "intermediate": fields.count("n_inner", default=4 * hidden),
        "gated_mlp": False,
        "vocab": fields.count("vocab_size"),
        "tied_embeddings": fields.flag("tie_word_embeddings", default=True),
        "positions": "learned",
        "max_context": fields.count("n_positions"),
        **dict.fromkeys(_BIASES, True),
        "norm_bias": True,
    }


def _gpt_bigcode(fields: Fields) -> dict[str, Any]:
    """GPT-2 whose query heads share one head of keys and values."""
    common = _gpt2(fields)
    shared = fields.flag("multi_query", default=True)
    return {**common, "kv_heads": 1 if shared else common["heads"]}


def _gpt_neox(fields: Fields) -> dict[str, Any]:
    """Attention and MLP run in parallel, each behind a LayerNorm of its own."""
    bias = fields.flag("attention_bias", default=True)
    shape = {"gated_mlp": False, "norm_bias": True}
    return {**rotary(fields), **shape, "qkv_bias": bias, "output_bias": bias, "mlp_bias": True}


def _starcoder2(fields: Fields) -> dict[str, Any]:
    return {
        **rotary(fields, tied=True),
        "gated_mlp": False,
        "norm_bias": True,
        **dict.fromkeys(_BIASES, fields.flag("use_bias", default=True)),
        "sliding_window": window(fields),
    }


def _phi(fields: Fields) -> dict[str, Any]:
    """Attention and MLP run in parallel behind one LayerNorm, and everything has a bias."""
    shape = {"gated_mlp": False, "norms_per_layer": 1}
    return {**rotary(fields), **shape, **dict.fromkeys((*_BIASES, "norm_bias", "head_bias"), True)}


def _phi3(fields: Fields) -> dict[str, Any]:
    return {**rotary(fields), "sliding_window": window(fields)}


def _jais2(fields: Fields) -> dict[str, Any]:
    """Squared ReLU between two matrices."""
    mlp_bias = fields.flag("mlp_bias", default=True)
    shape = {"gated_mlp": False, "norm_bias": True}
    return {**rotary(fields), **shape, **attention_bias(fields, default=True), "mlp_bias": mlp_bias}


def _nanochat(fields: Fields) -> dict[str, Any]:
    """Norms without weights, those of queries and keys too."""
    return {**rotary(fields), **attention_bias(fields), "gated_mlp": False, "norm_weight": False}


def _apertus(fields: Fields) -> dict[str, Any]:
    """xIELU, which has two parameters of its own, between two matrices; norms over query and key heads."""
    shape = {"gated_mlp": False, "qk_norm": True, "activation_parameters": 2}
    return {**rotary(fields), **attention_bias(fields), **shape}


def _split(fields: Fields, heads: str, hidden: str) -> int:
    """Width of a head, where all together are as wide as the layer."""
    width, rest = divmod(fields.count(hidden), fields.count(heads))
    if rest:
        raise fields.wrong(heads, f"must divide {hidden} ({fields.count(hidden)}); use a divisor of it")
    return width


FAMILIES: dict[str, Family] = {
    "opt": Family(_opt),
    "gpt2": Family(_gpt2),
    "gpt_bigcode": Family(_gpt_bigcode),
    "gpt_neox": Family(_gpt_neox),
    "starcoder2": Family(_starcoder2),
    "phi": Family(_phi),
    "phi3": Family(_phi3),
    "apertus": Family(_apertus),
    "jais2": Family(_jais2),
    "nanochat": Family(_nanochat),
}
