"""Random weights under which what comes out of a model depends on all that went in."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

_BLOCK = 1_000_003
"""Random numbers that are drawn once and laid end to end to fill a tensor. A prime, so that rows differ."""
_SHARP = {
    *("q_proj", "k_proj", "qkv_proj", "query_key_value", "c_attn"),
    *("q_norm", "k_norm", "query_layernorm", "key_layernorm"),
}
"""Modules that make queries and keys."""
_NORMS = ("norm", ".ln_1.", ".ln_2.", ".ln_f.")
"""In the names of norms."""
_OFFSET_NORMS = {"GemmaRMSNorm", "Gemma2RMSNorm", "Gemma3RMSNorm", "VaultGemmaRMSNorm"}
"""Norms that multiply by one more than their weight."""
_SMALL = ("embed", ".wte.", ".wpe.")
"""In the names of embeddings."""


def fill(model: Any, seed: int) -> None:
    """Gives a transformers model random weights.

    Matrices keep the size of what passes through them (variance 1 / inputs) and embeddings are small beside
    what the layers add; with the usual small weights a deep random model says the same token for ever. So it
    does where attention is spread over all tokens alike, hence queries and keys of twice the size.
    """
    numbers = torch.rand(_BLOCK, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    offset = 0
    with torch.no_grad():
        for name, weight in model.named_parameters():
            module = model.get_submodule(name.rpartition(".")[0])
            sharp = _sharpness(model, name) if name.split(".")[-2] in _SHARP else 1.0
            if any(part in name for part in _NORMS):
                less = 1.0 if type(module).__name__ in _OFFSET_NORMS else 0.0
                weight.fill_(0.0 if name.endswith("bias") else sharp - less)
                continue
            scale = sharp * math.sqrt(3 / _inputs(module, weight)) if weight.dim() > 1 else 0.05
            if name.endswith("lm_head.weight"):
                scale = 0.05
            elif any(part in name for part in _SMALL):
                scale = 0.05 / _embedding_scale(model, module)
            _tile(weight, numbers.roll(offset) * scale)
            offset += 7919  # so that equal shapes differ


def _sharpness(model: Any, name: str) -> float:
    """By how much larger queries and keys are, so that scores are as large whatever scales them."""
    attention = model.get_submodule(name.rsplit(".", 2)[0])
    scaling, width = getattr(attention, "scaling", None), getattr(attention, "head_dim", None)
    if scaling is None or width is None:
        return 2.0
    return 2.0 * math.sqrt(float(width**-0.5 / scaling))


def _inputs(module: nn.Module, weight: Tensor) -> int:
    """Values from which one output of a matrix is made."""
    if isinstance(module, Conv1D):  # (inputs, outputs)
        return weight.shape[0]
    # Experts are stacked: (experts, outputs, inputs), or the other way round.
    if weight.dim() == 3:
        return weight.shape[1 if getattr(module, "is_transposed", False) else 2]
    return math.prod(weight.shape[1:])


def _embedding_scale(model: Any, module: nn.Module) -> float:
    """By what the model multiplies embeddings: Gemma does it in the module, Granite after it."""
    own = float(getattr(module, "scalar_embed_scale", 1.0))
    return own * float(getattr(model.config, "embedding_multiplier", 1.0))


def _tile(weight: Tensor, numbers: Tensor) -> None:
    flat = weight.view(-1)
    numbers = numbers.to(flat.device, flat.dtype)
    for first in range(0, flat.numel(), _BLOCK):
        part = flat[first : first + _BLOCK]
        part.copy_(numbers[: part.numel()])
