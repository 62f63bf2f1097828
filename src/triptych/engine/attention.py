"""Paged attention behind transformers' attention interface.

One forward pass carries the packed tokens of a whole batch: pieces of prompts and single tokens of decodes.
Each layer first writes its new keys and values to their places in the pool; then every piece attends to its
own request's places, from the first token on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface

NAME = "triptych_paged"
"""Under which transformers knows it (`attn_implementation`)."""
_UNSERVED = ("softcap", "s_aux")
"""What some models ask of attention beside this: scores that are capped, and sinks."""


class KVPool:
    """Keys and values of all layers, token after token, so that pages side by side are one view.

    Args:
        layers: of the model that store KV.
        tokens: places.
        heads: KV heads.
        head_dim: values of a head.
        dtype: of keys and values.
        device: where they are.
        products: format in which a piece of a prompt is multiplied; None: as they are.
    """

    def __init__(
        self,
        *,
        layers: int,
        tokens: int,
        heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str,
        products: torch.dtype | None = None,
    ) -> None:
        shape = (layers, tokens, heads, head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.products = products or dtype


@dataclass(frozen=True, slots=True)
class Piece:
    """The tokens of one request in a pass."""

    first: int
    """Position of its first token in the packed tokens."""
    tokens: int
    history: int
    """Tokens of the request that were in the pool before."""
    place: int | Tensor
    """Where its first token lies in the pool if all lie side by side; else the places of all, shape
    (context,)."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What attention needs to know of a batch; it travels through the model's forward as `kv`."""

    pool: KVPool
    pieces: Sequence[Piece]
    places: Tensor
    """Where the packed tokens are written, shape (tokens,)."""


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    kv: Pass | None = None,
    **ignored: Any,
) -> tuple[Tensor, None]:
    """Attention of packed tokens, as transformers calls it for each layer.

    Args:
        module: the layer; its `layer_idx` says which part of the pool is its own.
        query: shape (1, heads, tokens, head_dim).
        key: shape (1, KV heads, tokens, head_dim).
        value: likewise.
        attention_mask: None; causality follows from the pieces.
        scaling: of the scores; None: 1 / sqrt(head_dim).
        dropout: none at inference.
        sliding_window: tokens back that a token sees, itself included; None: all.
        kv: the pass.
        ignored: what other attention functions take.

    Returns:
        Output, shape (1, tokens, heads, head_dim), and no weights.

    Raises:
        ValueError: the forward was not given a pass, or the model asks for more than this.
    """
    if kv is None:
        raise ValueError("paged attention needs the batch's pass: call the model with kv=")
    for name in _UNSERVED:
        if ignored.get(name) is not None:
            raise ValueError(f"paged attention has no {name}, which this model needs")
    layer = module.layer_idx
    assert isinstance(layer, int)
    keys, values = kv.pool.keys[layer], kv.pool.values[layer]
    keys.index_copy_(0, kv.places, key[0].transpose(0, 1).to(keys.dtype))
    values.index_copy_(0, kv.places, value[0].transpose(0, 1).to(values.dtype))
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    out = query.new_empty((query.shape[2], query.shape[1], query.shape[3]))
    for piece in kv.pieces:
        end = piece.first + piece.tokens
        context = piece.history + piece.tokens
        if isinstance(piece.place, int):
            k, v = keys[piece.place : piece.place + context], values[piece.place : piece.place + context]
        else:
            k, v = keys[piece.place], values[piece.place]
        q = query[0, :, piece.first : end]
        if piece.tokens > 1:
            q, k, v = q.to(kv.pool.products), k.to(kv.pool.products), v.to(kv.pool.products)
        out[piece.first : end] = _piece(q, k, v, scale, sliding_window)
    return out.unsqueeze(0), None


AttentionInterface.register(NAME, attend)


def _piece(query: Tensor, keys: Tensor, values: Tensor, scale: float, window: int | None) -> Tensor:
    """Attention of a piece's tokens, the last of `keys`, over the request's keys and values.

    Args:
        query: shape (heads, tokens, head_dim).
        keys: shape (context, KV heads, head_dim).
        values: likewise.
        scale: of the scores.
        window: tokens back that a token sees.

    Returns:
        Shape (tokens, heads, head_dim).
    """
    tokens, context = query.shape[1], keys.shape[0]
    if window is not None and context > window:
        if tokens > 1:
            return _sdpa(query, keys, values, scale, _window(tokens, context, window, query.device))
        keys, values = keys[-window:], values[-window:]
    if query.device.type != "cpu":
        bias = None if tokens == 1 else causal_lower_right(tokens, context)
        return _sdpa(query, keys, values, scale, bias)
    return _one(query, keys, values, scale) if tokens == 1 else _several(query, keys, values, scale)


def _sdpa(query: Tensor, keys: Tensor, values: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    """As `_piece`, by whatever kernel torch has for it (FlashAttention on CUDA).

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


def _one(query: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """A single token on the CPU: heads that share keys are rows of one product."""
    heads, _, width = query.shape
    kv_heads = keys.shape[1]
    grouped = query.reshape(1, kv_heads, heads // kv_heads, width)
    out, _ = _flash(
        grouped, keys.transpose(0, 1).unsqueeze(0), values.transpose(0, 1).unsqueeze(0), False, scale
    )
    return out.reshape(1, heads, width)


def _several(query: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """Several tokens on the CPU, where causal attention is for as many keys as tokens: history goes apart."""
    heads, tokens, width = query.shape
    history, kv_heads = keys.shape[0] - tokens, keys.shape[1]
    shared = heads // kv_heads
    grouped = query.reshape(kv_heads, shared, tokens, width)
    k = keys.transpose(0, 1).unsqueeze(1).expand(-1, shared, -1, -1)
    v = values.transpose(0, 1).unsqueeze(1).expand(-1, shared, -1, -1)
    out, weight = _flash(grouped, k[:, :, history:], v[:, :, history:], True, scale)
    if history:
        before, weight_before = _flash(grouped, k[:, :, :history], v[:, :, :history], False, scale)
        out = _merge(out, weight, before, weight_before)
    return out.reshape(heads, tokens, width).transpose(0, 1)


def _flash(query: Tensor, keys: Tensor, values: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Output, shape (batch, heads, tokens, head_dim), and log-sum-exp of the scores, without the last."""
    out, weight = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, keys, values, 0.0, causal, scale=scale
    )
    return out, weight


def _merge(one: Tensor, one_weight: Tensor, other: Tensor, other_weight: Tensor) -> Tensor:
    """Attention over two sets of keys from that over each, weighed by their softmax denominators.

    Source: Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018.
    """
    share = torch.sigmoid(one_weight - other_weight).unsqueeze(-1).to(torch.float32)
    return torch.lerp(other.float(), one.float(), share).to(one.dtype)
