"""Paged attention behind transformers' attention interface.

One forward pass carries the packed tokens of a whole batch: pieces of prompts and single tokens of decodes.
Each layer first writes its new keys and values to their places in the pool; then every piece attends to its
own request's places, from the first token on: one after the other here, all in one call in `varlen.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface

from triptych.engine.flash_cpu import Stretches, attend_side_by_side, attend_stretches, stretches

NAME = "triptych_paged"
"""Under which transformers knows it (`attn_implementation`)."""
_UNSERVED = ("softcap", "s_aux")
"""What some models ask of attention beside this: scores that are capped, and sinks."""


class KVPool:
    """Keys and values of all layers, token after token, so that pages side by side are one view.

    On the CPU the tokens of a head lie side by side: its kernel goes through them head by head, and decodes of 20
    sequences over 530 tokens (12 heads of 64) took 0.88 (fp32) and 0.95 times as long (bf16). FlashAttention on CUDA
    takes pages in which the heads of a token lie side by side.

    `keys` and `values` have shape (layers, tokens, heads, head_dim) either way.

    Args:
        layers: of the model that store KV.
        tokens: places.
        heads: KV heads.
        head_dim: values of a head.
        dtype: of keys and values.
        device: where they are.
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
    ) -> None:
        on_cpu = torch.device(device).type == "cpu"
        shape = (layers, heads, tokens, head_dim) if on_cpu else (layers, tokens, heads, head_dim)
        self.keys, self.values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        if on_cpu:
            self.keys, self.values = self.keys.transpose(1, 2), self.values.transpose(1, 2)

    def copy_pages(self, sources: list[int], targets: list[int], size: int) -> None:
        """Copies pages of `size` tokens within the pool, all at once: one may be a source and a target."""
        for tensor in (self.keys, self.values):
            for pages in tensor.unflatten(1, (-1, size)):  # by layer: what is copied lies in memory twice
                pages[targets] = pages[sources]


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


class Attention(Protocol):
    """How the pieces of a pass attend to what the pool holds of their requests; chosen once for a pool."""

    name: str
    """For the log."""

    def prepare(self, pieces: Sequence[Piece]) -> Any:
        """What all layers of a pass need beside the pieces: its `lines`, which `to` brings to a device."""

    def __call__(
        self, query: Tensor, keys: Tensor, values: Tensor, kv: Pass, scale: float, window: int | None
    ) -> Tensor:
        """Attention of the packed tokens in one layer, whose KV is in the pool.

        Args:
            query: shape (heads, tokens, head_dim).
            keys: of the layer, shape (places, KV heads, head_dim).
            values: likewise.
            kv: the pass.
            scale: of the scores.
            window: tokens back that a token sees, itself included; None: all.

        Returns:
            Shape (tokens, heads, head_dim).
        """


class Parts(list[Stretches | None]):
    """Of each piece whose keys lie in a few stretches, these; None: side by side, or to be gathered."""

    def to(self, device: torch.device) -> Parts:
        """The same: they are read by the host."""
        return self


class PieceByPiece:
    """A call, or a few, for each piece: what the CPU's kernels are made for.

    Args:
        products: format in which a piece of a prompt is multiplied; None: as it is.
    """

    def __init__(self, products: torch.dtype | None = None) -> None:
        self.name = "SDPA, piece by piece"
        self._products = products

    def prepare(self, pieces: Sequence[Piece]) -> Parts:
        """Where the pieces' keys lie, as far as a call needs to know it."""
        return Parts(
            None if isinstance(piece.place, int) else stretches(piece.place, piece.tokens) for piece in pieces
        )

    def __call__(
        self, query: Tensor, keys: Tensor, values: Tensor, kv: Pass, scale: float, window: int | None
    ) -> Tensor:
        """As `Attention` says."""
        products = self._products
        heads, tokens, width = query.shape
        out = query.new_empty((tokens, heads, width))
        for index, piece in enumerate(kv.pieces):
            end = piece.first + piece.tokens
            context = piece.history + piece.tokens
            q = query[:, piece.first : end]
            parts = kv.lines[index] if kv.lines else None
            if parts is not None and self._takes_parts(q, context, window):
                out[piece.first : end] = attend_stretches(q, keys, values, parts, scale)
                continue
            if isinstance(piece.place, int):
                k, v = keys[piece.place : piece.place + context], values[piece.place : piece.place + context]
            else:
                k, v = keys[piece.place], values[piece.place]
            if products is not None and piece.tokens > 1:
                q, k, v = q.to(products), k.to(products), v.to(products)
            out[piece.first : end] = _piece(q, k, v, scale, window)
        return out

    def _takes_parts(self, query: Tensor, context: int, window: int | None) -> bool:
        """Whether a piece can attend to stretches of the pool as they are."""
        if query.device.type != "cpu" or (window is not None and context > window):
            return False
        # What is converted for the products is copied anyway.
        return query.shape[1] == 1 or self._products in (None, query.dtype)


PIECE_BY_PIECE = PieceByPiece()


@dataclass(frozen=True, slots=True)
class Pass:
    """What attention needs to know of a batch; it travels through the model's forward as `kv`."""

    pool: KVPool
    pieces: Sequence[Piece]
    places: Tensor
    """Where the packed tokens are written, shape (tokens,)."""
    attention: Attention = PIECE_BY_PIECE
    lines: Any = None
    """What it has prepared."""


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
    out = kv.attention(query[0], keys, values, kv, scale, sliding_window)
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
    attend_all = attend_side_by_side if query.device.type == "cpu" else _elsewhere
    return attend_all(query, keys, values, scale)


def _elsewhere(query: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """As `attend_side_by_side`, on other devices than the CPU."""
    tokens, context = query.shape[1], keys.shape[0]
    bias = None if tokens == 1 else causal_lower_right(tokens, context)
    return _sdpa(query, keys, values, scale, bias)


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
