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
from transformers import AttentionInterface

from triptych.engine.definition import Scoring
from triptych.engine.kernels.flash import Stretches, attend_stretches, stretches
from triptych.engine.piece import Kernel, attend_piece, on_cpu

NAME = "triptych_paged"
"""Under which transformers knows it (`attn_implementation`)."""
_UNSERVED = ("position_bias", "indices", "block_indices")
"""What some models ask of attention beside this: what is added to the scores, and a choice of keys."""
_LONG = 8
"""Mean tokens of a piece from which the CPU writes pieces faster than single tokens: 2048 tokens of 12 heads
of 64 in half of the time (fp32), or a quarter (bf16)."""
COLUMNS = 64
"""Tokens of a row of keys that lie in columns."""
Own = tuple[Tensor, Tensor]
"""Keys and values of the packed tokens as the layer has computed them, shape (KV heads, tokens, head_dim)."""


class KVPool:
    """Keys and values of all layers, token after token, so that pages side by side are one view.

    On the CPU the tokens of a head lie side by side: its kernel goes through them head by head, and decodes
    of 20 sequences over 530 tokens (12 heads of 64) took 0.88 (fp32) and 0.95 times as long (bf16).
    FlashAttention on CUDA takes pages in which the heads of a token lie side by side.

    `keys` and `values` have shape (layers, tokens, heads, head_dim) either way.

    Args:
        layers: of the model that store KV.
        tokens: places.
        heads: KV heads.
        head_dim: values of a head.
        dtype: of keys and values.
        device: where they are.
        columns: whether each number of a head's keys lies side by side for all tokens, as `bags.py` reads
            them; the CPU only. There may be more places then: an odd number of rows of `COLUMNS`, so that the
            rows of a token do not all compete for the same lines of a cache.
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
        columns: bool = False,
    ) -> None:
        if columns:
            tokens = (-(-tokens // COLUMNS) | 1) * COLUMNS
        by_head = torch.device(device).type == "cpu"
        shape = (layers, heads, tokens, head_dim) if by_head else (layers, tokens, heads, head_dim)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        if by_head:
            self.values = self.values.transpose(1, 2)
        if columns:
            by_number = torch.zeros((layers, heads, head_dim, tokens), dtype=dtype, device=device)
            self.keys = by_number.permute(0, 3, 1, 2)
        else:
            self.keys = torch.zeros_like(self.values)  # with the same strides

    def copy_pages(self, sources: list[int], targets: list[int], size: int) -> None:
        """Copies pages of `size` tokens within the pool, all at once: one may be a source and a target."""
        whole = self.keys.shape[1] // size * size
        for tensor in (self.keys, self.values):
            for pages in tensor[:, :whole].unflatten(
                1, (-1, size)
            ):  # by layer: what is copied lies in memory twice
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
    apart: bool
    """Whether prompts go one after the other, so that their times add up."""
    columns: bool
    """How keys lie in the pool: see `KVPool`."""

    def prepare(self, pieces: Sequence[Piece]) -> Any:
        """What all layers of a pass need beside the pieces: its `prepared`, which `to` brings to a device."""

    def __call__(
        self, query: Tensor, keys: Tensor, values: Tensor, kv: Pass, scoring: Scoring, own: Own | None = None
    ) -> Tensor:
        """Attention of the packed tokens in one layer, whose KV is in the pool.

        Args:
            query: shape (heads, tokens, head_dim).
            keys: of the layer, shape (places, KV heads, head_dim).
            values: likewise.
            kv: the pass.
            scoring: of the layer.
            own: keys and values of the packed tokens before they were written; None: they are read back.

        Returns:
            Shape (tokens, heads, head_dim).
        """


class Parts(list[Stretches | None]):
    """The stretches of keys of each single token, where they are few; None: side by side, or gathered."""

    def to(self, device: torch.device) -> Parts:
        """The same: they are read by the host."""
        return self


class PieceByPiece:
    """A call, or a few, for each piece.

    Queries may come in a wider format than that of the pool. Pieces of prompts are multiplied in theirs;
    single tokens, which wait for memory anyway, in the pool's.

    Args:
        prompts: attention of a piece of several tokens.
        singles: of one token.
        names: of the two, for the log; empty: as torch does it.
    """

    apart = True
    columns = False

    def __init__(
        self,
        prompts: Kernel = attend_piece,
        singles: Kernel = attend_piece,
        names: tuple[str, str] | None = None,
    ) -> None:
        self._prompts, self._singles = prompts, singles
        self.prompts_name = "" if names is None else f"prompts {names[0]}"
        self.name = "SDPA, piece by piece" if names is None else f"decodes {names[1]}, prompts {names[0]}"

    def prepare(self, pieces: Sequence[Piece]) -> Parts:
        """Where the pieces' keys lie, as far as a call needs to know it."""
        apart = self._singles is attend_piece
        return Parts(
            None if isinstance(piece.place, int) or piece.tokens > 1 or not apart else stretches(piece.place)
            for piece in pieces
        )

    def __call__(
        self, query: Tensor, keys: Tensor, values: Tensor, kv: Pass, scoring: Scoring, own: Own | None = None
    ) -> Tensor:
        """As `Attention` says."""
        heads, tokens, width = query.shape
        out = query.new_empty((tokens, heads, width))
        for index, piece in enumerate(kv.pieces):
            parts = kv.prepared[index] if kv.prepared else None
            end = piece.first + piece.tokens
            out[piece.first : end] = self.attend(piece, parts, query, keys, values, scoring, own)
        return out

    def attend(
        self,
        piece: Piece,
        parts: Stretches | None,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        scoring: Scoring,
        own: Own | None,
    ) -> Tensor:
        """Attention of one piece, shape (its tokens, heads, head_dim)."""
        q = query[:, piece.first : piece.first + piece.tokens]
        if piece.tokens > 1:
            k, v = (
                _context(piece, rows, scoring.window, None if own is None else own[index])
                for index, rows in enumerate((keys, values))
            )
            return self._prompts(q, k.to(q.dtype), v.to(q.dtype), scoring)
        q = q.to(keys.dtype)
        context = piece.history + 1
        if parts is not None and _take_parts(q, context, scoring):
            return attend_stretches(q, keys, values, parts, scoring)
        k, v = _context(piece, keys, scoring.window, None), _context(piece, values, scoring.window, None)
        return self._singles(q, k, v, scoring)


def _context(piece: Piece, rows: Tensor, window: int | None, own: Tensor | None) -> Tensor:
    """Keys, or values, that the tokens of a piece see, shape (tokens, KV heads, head_dim).

    Args:
        piece: of which they are.
        rows: of a layer in the pool.
        window: tokens back that a token sees; None: all.
        own: of the packed tokens as computed, shape (KV heads, tokens, head_dim), in the wanted format.
    """
    place, last = piece.place, piece.history + piece.tokens
    first = 0 if window is None else max(0, piece.history - window + 1)
    if own is None:
        return rows[place + first : place + last] if isinstance(place, int) else rows[place[first:]]
    mine = own[:, piece.first : piece.first + piece.tokens].transpose(0, 1)
    if first == piece.history:
        return mine
    end = piece.history
    before = rows[place + first : place + end] if isinstance(place, int) else rows[place[first:end]]
    return torch.cat([before.transpose(0, 1).to(own.dtype), mine.transpose(0, 1)], 1).transpose(0, 1)


def _take_parts(query: Tensor, context: int, scoring: Scoring) -> bool:
    """Whether a single token can attend to stretches of the pool as they are."""
    if not on_cpu(query) or scoring.softcap is not None:
        return False
    return scoring.window is None or context <= scoring.window


PIECE_BY_PIECE = PieceByPiece()


@dataclass(frozen=True, slots=True)
class Pass:
    """What attention needs to know of a batch; it travels through the model's forward as `kv`."""

    pool: KVPool
    pieces: Sequence[Piece]
    places: Tensor
    """Where the packed tokens are written, shape (tokens,)."""
    attention: Attention = PIECE_BY_PIECE
    prepared: Any = None
    """What it has for all layers."""

    def write(self, layer: Tensor, rows: Tensor) -> None:
        """Writes the packed tokens' keys, or values, to their places.

        Args:
            layer: of the pool, shape (places, KV heads, head_dim).
            rows: shape (tokens, KV heads, head_dim).
        """
        if not (on_cpu(rows) and 0 < _LONG * len(self.pieces) < len(rows)):
            layer.index_copy_(0, self.places, rows.to(layer.dtype))
            return
        for piece in self.pieces:
            own = rows[piece.first : piece.first + piece.tokens]
            if isinstance(piece.place, int):
                layer[piece.place + piece.history : piece.place + piece.history + piece.tokens] = own
            else:
                layer[piece.place[piece.history :]] = own.to(layer.dtype)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    softcap: float | None = None,
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
        s_aux: sinks, a score for each head that takes part in the softmax's denominator alone; None: none.
        softcap: scores s become softcap * tanh(s / softcap); None: they stay.
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
    kv.write(keys, key[0].transpose(0, 1))
    kv.write(values, value[0].transpose(0, 1))
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    scoring = Scoring(scale, sliding_window, s_aux, softcap)
    out = kv.attention(query[0], keys, values, kv, scoring, (key[0], value[0]))
    return out.unsqueeze(0), None


AttentionInterface.register(NAME, attend)
