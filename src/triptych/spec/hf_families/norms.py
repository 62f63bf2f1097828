"""Families that differ from Llama in where they norm, and what: Gemma, Cohere, OLMo, GLM, EXAONE."""

from __future__ import annotations

from typing import Any

from triptych.spec.hf_families.common import (
    Family,
    after_the_first,
    all_but_each,
    attention_bias,
    every_other_window,
    everywhere,
    rotary,
    where_sparse,
    window,
    windows,
)
from triptych.spec.hf_fields import Fields


def _gemma(fields: Fields) -> dict[str, Any]:
    if fields.flag("use_bidirectional_attention", default=False):
        problem = "a model whose tokens see those after them generates nothing; choose another model"
        raise fields.wrong("use_bidirectional_attention", problem)
    return {**rotary(fields, head_dim=256, tied=True), **attention_bias(fields)}


def _gemma2(fields: Fields) -> dict[str, Any]:
    """Norms before and after attention and MLP."""
    return {**_vaultgemma(fields), "norms_per_layer": 4}


def _vaultgemma(fields: Fields) -> dict[str, Any]:
    return {**_gemma(fields), **every_other_window(fields, default=4096)}


def _gemma3(fields: Fields) -> dict[str, Any]:
    """Norms before and after attention and MLP; every sixth layer sees all tokens."""
    windowed = all_but_each(fields, "sliding_window_pattern", default=6)
    return {
        **_gemma(fields),
        **windows(fields, window(fields, default=4096), windowed),
        "norms_per_layer": 4,
        "qk_norm": True,
    }


def _cohere(fields: Fields) -> dict[str, Any]:
    """Attention and MLP run in parallel behind one LayerNorm without a bias."""
    return {
        **rotary(fields, tied=True),
        **attention_bias(fields),
        "norms_per_layer": 1,
        "qk_norm": fields.flag("use_qk_norm", default=False),
        "qk_norm_shared": False,
    }


def _cohere2(fields: Fields) -> dict[str, Any]:
    windowed = all_but_each(fields, "sliding_window_pattern", default=4)
    common = {**_cohere(fields), "qk_norm": False}
    return {**common, **windows(fields, window(fields, default=4096), windowed)}


def _olmo(fields: Fields) -> dict[str, Any]:
    """Norms without weights."""
    return {**rotary(fields), **attention_bias(fields), "norm_weight": False}


def _olmo2(fields: Fields) -> dict[str, Any]:
    """Norms after attention and MLP, and over all queries and all keys."""
    return {**rotary(fields), **attention_bias(fields), "qk_norm": True, "qk_norm_shared": False}


def _olmo3(fields: Fields) -> dict[str, Any]:
    size = window(fields, default=4096)
    return {**_olmo2(fields), **windows(fields, size, lambda layer: (layer + 1) % 4 != 0)}


def _olmoe(fields: Fields) -> dict[str, Any]:
    common = _olmo2(fields)
    return {**common, "experts": everywhere(fields, common, "num_experts")}


def _glm(fields: Fields) -> dict[str, Any]:
    bias = fields.flag("attention_bias", default=True)
    return {**rotary(fields, head_dim=128), "qkv_bias": bias}


def _glm4(fields: Fields) -> dict[str, Any]:
    return {**_glm(fields), "norms_per_layer": 4}


def _glm4_moe(fields: Fields) -> dict[str, Any]:
    return {
        **rotary(fields),
        "qkv_bias": fields.flag("attention_bias", default=False),
        "qk_norm": fields.flag("use_qk_norm", default=False),
        "experts": after_the_first(fields, dense=1),
    }


def _exaone4(fields: Fields) -> dict[str, Any]:
    """Norms after attention and MLP, and over each query and key head."""
    windowed = all_but_each(fields, "sliding_window_pattern", default=4)
    return {**rotary(fields), **windows(fields, window(fields, default=4096), windowed), "qk_norm": True}


def _exaone_moe(fields: Fields) -> dict[str, Any]:
    return {**_exaone4(fields), "experts": where_sparse(fields, dense=1, shared=1)}


FAMILIES: dict[str, Family] = {
    "gemma": Family(_gemma),
    "gemma2": Family(_gemma2),
    "gemma3_text": Family(_gemma3),
    "vaultgemma": Family(_vaultgemma),
    "cohere": Family(_cohere),
    "cohere2": Family(_cohere2),
    "olmo": Family(_olmo),
    "olmo2": Family(_olmo2),
    "olmo3": Family(_olmo3),
    "olmoe": Family(_olmoe),
    "flex_olmo": Family(_olmoe),
    "glm": Family(_glm),
    "glm4": Family(_glm4),
    "glm4_moe": Family(_glm4_moe),
    "exaone4": Family(_exaone4),
    "exaone_moe": Family(_exaone_moe),
}
