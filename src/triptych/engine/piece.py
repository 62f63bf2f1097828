"""Attention of a piece whose keys are at hand, by the kernel that its device has for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from triptych.engine.definition import Scoring, attend_by_definition
from triptych.engine.kernels.flash import attend_side_by_side


class Kernel(Protocol):
    """As `attend_piece`."""

    def __call__(self, query: Tensor, keys: Tensor, values: Tensor, scoring: Scoring, /) -> Tensor: ...


def attend_piece(query: Tensor, keys: Tensor, values: Tensor, scoring: Scoring) -> Tensor:
    """Attention of a piece's tokens, the last of `keys`, over the request's keys and values.

    Args:
        query: shape (heads, tokens, head_dim).
        keys: shape (context, KV heads, head_dim).
        values: likewise.
        scoring: of the layer.

    Returns:
        Shape (tokens, heads, head_dim).
    """
    tokens, window = query.shape[1], scoring.window
    if window is not None and (tokens == 1 or keys.shape[0] <= window):
        keys, values, window = keys[-window:], values[-window:], None
    # Only the CPU's kernel tells the log-sum-exp that sinks need, and it takes no mask.
    if scoring.softcap is not None or (
        scoring.sinks is not None and (window is not None or not on_cpu(query))
    ):
        return attend_by_definition(query, keys, values, replace(scoring, window=window))
    if window is not None:
        return _sdpa(query, keys, values, scoring.scale, _window(tokens, keys.shape[0], window, query.device))
    if on_cpu(query):
        return attend_side_by_side(query, keys, values, scoring)
    return _elsewhere(query, keys, values, scoring.scale)


def on_cpu(tensor: Tensor) -> bool:
    """Whether torch's kernel for the CPU takes it."""
    return tensor.device.type == "cpu"


def _elsewhere(query: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """As `attend_side_by_side`, on other devices than the CPU."""
    tokens, context = query.shape[1], keys.shape[0]
    bias = None if tokens == 1 else causal_lower_right(tokens, context)
    return _sdpa(query, keys, values, scale, bias)


def _sdpa(query: Tensor, keys: Tensor, values: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    """As `attend_piece`, by whatever kernel torch has for it (FlashAttention on CUDA).

    `mask`, of shape (tokens, context), says which keys each token sees; None: all.
    """
    out = torch.nn.functional.scaled_dot_product_attention(
        query.unsqueeze(0),
        keys.transpose(0, 1).unsqueeze(0),
        values.transpose(0, 1).unsqueeze(0),
        attn_mask=mask,
        scale=scale,
        enable_gqa=query.shape[0] != keys.shape[1],
    )
    return out[0].transpose(0, 1)


def _window(tokens: int, context: int, window: int, device: torch.device) -> Tensor:
    """A mask that shows each token the last `window`, itself included."""
    position = torch.arange(context - tokens, context, device=device).unsqueeze(1)
    back = position - torch.arange(context, device=device)
    return (back >= 0) & (back < window)
