"""Further families, each with what is its own: windows in some layers, multipliers, other norms, experts."""

from __future__ import annotations

from typing import Any

_TEXT = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 512,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
_GQA = {**_TEXT, "num_key_value_heads": 2, "intermediate_size": 96}
_GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512, "vocab_size": 512}
_LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
_ROUTED = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}
_MIXED = {"sliding_window": 24, "layer_types": ["sliding_attention", "full_attention"]}
_GRANITE = {
    "embedding_multiplier": 4.0,
    "attention_multiplier": 0.2,
    "residual_multiplier": 0.5,
    "logits_scaling": 4.0,
}
_SPARSE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_GEMMA2 = {**_GQA, **_MIXED, "head_dim": 32, "query_pre_attn_scalar": 32, "attn_logit_softcapping": 2.0}
_ERNIE = {"moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1, "moe_intermediate_size": 32}
_FIELDS: dict[str, dict[str, Any]] = {
    "apertus": _GQA,
    "arcee": {**_GQA, "mlp_bias": True},
    "cohere": {**_GQA, "use_qk_norm": True},
    "cohere2": {**_GQA, **_MIXED},
    "cwm": {**_GQA, "sliding_window": 24, "head_dim": 16},
    "dots1": {**_GQA, **_ROUTED, **_MIXED},
    "ernie4_5": {**_GQA, "head_dim": 32, "use_bias": True},
    "ernie4_5_moe": {**_GQA, **_ERNIE},
    "exaone4": {**_GQA, **_MIXED},
    "exaone_moe": {**_GQA, **_MIXED, **_SPARSE},
    "flex_olmo": {**_GQA, "num_experts": 4, "num_experts_per_tok": 2},
    "gemma": {**_GQA, "head_dim": 32},
    "gemma2": _GEMMA2,
    "gemma3_text": {**_GQA, **_MIXED, "head_dim": 32, "query_pre_attn_scalar": 32},
    "glm": {**_GQA, "head_dim": 32},
    "glm4": {**_GQA, "head_dim": 32},
    "glm4_moe": {**_GQA, **_ROUTED, "use_qk_norm": True},
    "gpt2": _GPT2,
    "gpt_bigcode": _GPT2,
    "gpt_neox": {**_TEXT, "intermediate_size": 128},
    "gpt_oss": {**_GQA, **_LOCAL, **_MIXED, "head_dim": 16},
    "granite": {**_GQA, **_GRANITE},
    "granite_swa": {**_GQA, **_GRANITE, **_MIXED, "layer_rope_theta": [10000.0, 0.0]},
    "granitemoe": {**_GQA, **_GRANITE, **_LOCAL},
    "granitemoe_swa": {**_GQA, **_GRANITE, **_LOCAL, **_MIXED, "shared_intermediate_size": 48},
    "granitemoeshared": {**_GQA, **_GRANITE, **_LOCAL, "shared_intermediate_size": 48},
    "helium": {**_GQA, "head_dim": 16},
    "hunyuan_v1_dense": {**_GQA, "head_dim": 32},
    "hyperclovax": {**_GQA, **_GRANITE},
    "jais2": {**_GQA, "intermediate_size": 128},
    "mellum": {**_GQA, **_MIXED, **_SPARSE, "head_dim": 32},
    "minimax_m2": {**_GQA, **_LOCAL, "head_dim": 32},
    "ministral": {**_GQA, **_MIXED, "head_dim": 32},
    "ministral3": {**_GQA, "head_dim": 32},
    "nanochat": _GQA,
    "olmo": {**_GQA, "clip_qkv": 4.0},
    "olmo2": _GQA,
    "olmo3": {**_GQA, **_MIXED},
    "olmoe": {**_GQA, "num_experts": 4, "num_experts_per_tok": 2},
    "phi3": {**_GQA, "sliding_window": 24},
    "seed_oss": {**_GQA, "head_dim": 32},
    "smollm3": {**_GQA, **_MIXED, "no_rope_layers": [1, 0], "use_sliding_window": True},
    "starcoder2": {**_GQA, "sliding_window": 24},
    "vaultgemma": _GEMMA2,
}
CONFIGS: dict[str, dict[str, Any]] = {
    name: {**fields, "model_type": name} for name, fields in _FIELDS.items()
}
