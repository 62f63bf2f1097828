"""Models of every family, small enough to build and run in a moment."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from triptych.engine.attention import NAME
from triptych.engine.loader import LoadedModel, load

from . import more

VOCABULARY = 512
_TEXT = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
}
_GQA = {**_TEXT, "num_key_value_heads": 2, "intermediate_size": 96}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1}
_TOWER = {"depth": 2, "num_heads": 4, "in_channels": 3, "spatial_merge_size": 2, "temporal_patch_size": 2}
_IMAGES = {"image_token_id": 510, "vision_start_token_id": 508, "vision_end_token_id": 509}

CONFIGS: dict[str, dict[str, Any]] = {
    "opt": {
        **_TEXT,
        "model_type": "opt",
        "ffn_dim": 128,
        "word_embed_proj_dim": 64,
        "do_layer_norm_before": True,
    },
    "llama": {**_GQA, "model_type": "llama"},
    "mistral": {**_GQA, "model_type": "mistral", "sliding_window": 24},
    "qwen2": {**_GQA, "model_type": "qwen2"},
    "qwen2_moe": {
        **_GQA,
        **_MOE,
        "model_type": "qwen2_moe",
        "shared_expert_intermediate_size": 32,
    },
    "qwen3": {**_GQA, "model_type": "qwen3", "head_dim": 32},
    "qwen3_moe": {**_GQA, **_MOE, "model_type": "qwen3_moe", "head_dim": 16},
    "mixtral": {**_GQA, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
    "phi": {**_TEXT, "model_type": "phi", "intermediate_size": 128},
    "qwen2_vl": {
        **_GQA,
        **_IMAGES,
        "model_type": "qwen2_vl",
        "vision_config": {**_TOWER, "embed_dim": 32, "mlp_ratio": 2, "hidden_size": 64, "patch_size": 14},
    },
    "qwen2_5_vl": {
        **_GQA,
        **_IMAGES,
        "model_type": "qwen2_5_vl",
        "vision_config": {
            **_TOWER,
            "hidden_size": 32,
            "intermediate_size": 48,
            "out_hidden_size": 64,
            "patch_size": 14,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
    },
    "qwen3_vl": {
        **_IMAGES,
        "model_type": "qwen3_vl",
        "text_config": {**_GQA, "head_dim": 32},
        "vision_config": {
            **_TOWER,
            "hidden_size": 32,
            "intermediate_size": 48,
            "out_hidden_size": 64,
            "patch_size": 16,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
    },
    "qwen3_vl_moe": {
        **_IMAGES,
        "model_type": "qwen3_vl_moe",
        "text_config": {**_GQA, **_MOE, "head_dim": 16},
        "vision_config": {
            **_TOWER,
            "hidden_size": 32,
            "intermediate_size": 48,
            "out_hidden_size": 64,
            "patch_size": 16,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
    },
}
ALL = {**CONFIGS, **more.CONFIGS}
IMAGE_FAMILIES = tuple(name for name, config in CONFIGS.items() if "vision_config" in config)


def config_file(family: str, folder: Path) -> Path:
    """Its `config.json` in a folder."""
    path = folder / f"{family}.json"
    path.write_text(json.dumps(ALL[family]), encoding="utf-8")
    return path


DEVICE = os.environ.get("TRIPTYCH_TEST_DEVICE", "cpu")
"""Where the engine's models run in tests; `make gpu` says cuda. References are always computed on the CPU."""


def build(
    family: str,
    folder: Path,
    *,
    attention: str = NAME,
    dtype: torch.dtype = torch.float32,
    device: str = DEVICE,
) -> LoadedModel:
    """The model, always with the same weights."""
    return load(f"random:{config_file(family, folder)}", dtype=dtype, attention=attention, device=device)
