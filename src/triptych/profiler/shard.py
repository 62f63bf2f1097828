"""One device's share of a model under tensor parallelism, cut from the whole: in place, on any device.

As `cost` has it: heads, widths of MLPs and experts, and the vocabulary are split, where there are fewer KV
heads than devices each keeps one; norms and routers are whole. What the devices tell each other is not in it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from triptych.engine.loader import LoadedModel
from triptych.spec.base import SpecError

_OUTPUTS = {"q_proj", "gate_proj", "up_proj", "fc1", "linear_fc1", "lm_head", "qkv", "mlp.0"}
"""Linear layers whose outputs are split."""
_KEYS_VALUES = {"k_proj", "v_proj"}
"""Likewise, down to one head."""
_INPUTS = {"o_proj", "out_proj", "dense", "down_proj", "fc2", "linear_fc2", "proj", "mlp.2"}
"""Linear layers whose inputs are split."""
_FUSED = {"qkv_proj", "query_key_value", "c_attn", "gate_up_proj"}
"""Several matrices in one, which the model takes apart by sizes of its own."""


def shard(loaded: LoadedModel, tensor: int) -> LoadedModel:
    """Keeps the first of `tensor` shares of all that is split.

    Args:
        loaded: cut in place.
        tensor: divides all numbers of heads.

    Returns:
        The model with what of its shape has changed.

    Raises:
        SpecError: it has matrices that cannot be split.
    """
    names = {path.rsplit(".", 1)[-1] for path, module in loaded.model.named_modules()}
    if names & _FUSED:
        problem = f"{loaded.name} has {min(names & _FUSED)}, several matrices in one, which is not split"
        raise SpecError("--tp", f"{problem}; measure it at 1")
    kv_heads = max(1, loaded.kv_heads // tensor)
    for path, module in list(loaded.model.named_modules()):
        leaf = path.rsplit(".", 1)[-1]
        name = ".".join(path.split(".")[-2:]) if leaf.isdigit() else leaf
        if isinstance(module, nn.Linear):
            if name in _KEYS_VALUES:
                _keep(module, "weight", 0, kv_heads * loaded.head_dim)
                _keep(module, "bias", 0, kv_heads * loaded.head_dim)
            elif name in _OUTPUTS:
                for tensor_name in ("weight", "bias"):
                    _split(module, tensor_name, 0, tensor)
            elif name in _INPUTS:
                _split(module, "weight", 1, tensor)
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.Embedding) and name == "embed_tokens":
            _split(module, "weight", 0, tensor)
            module.padding_idx = None
        elif name == "experts":
            _split_experts(module, tensor)
        elif hasattr(module, "num_heads") and name in ("self_attn", "attn"):
            module.num_heads //= tensor
    return replace(loaded, kv_heads=kv_heads, vocab_size=-(-loaded.vocab_size // tensor))


def _split_experts(module: Any, tensor: int) -> None:
    """Stacked matrices, shape (experts, outputs, inputs), or with the last two the other way round."""
    outputs, inputs = (2, 1) if getattr(module, "is_transposed", False) else (1, 2)
    for name, _ in list(module.named_parameters(recurse=False)):
        _split(module, name, inputs if name.startswith("down") else outputs, tensor)


def _split(module: nn.Module, name: str, axis: int, tensor: int) -> None:
    weight: Any = getattr(module, name, None)
    if weight is not None:
        _keep(module, name, axis, -(-weight.shape[axis] // tensor))


def _keep(module: nn.Module, name: str, axis: int, size: int) -> None:
    weight: torch.Tensor | None = getattr(module, name, None)
    if weight is not None:
        kept = weight.detach().narrow(axis, 0, size).clone()
        setattr(module, name, nn.Parameter(kept, requires_grad=False))
