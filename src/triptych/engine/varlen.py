"""Attention of a whole batch in one call a layer, by the FlashAttention kernel that torch has for CUDA.

The kernel takes keys and values in one of two ways. Over *pages*, a block table says where the blocks of each
request lie; not every release takes small ones (that of torch 2.13 wants multiples of 256 tokens). *Side by
side*, each request's keys are one stretch of the pool, told by its first place and its length, which is how
`pages.py` lays them wherever there is room; a batch in which a request is scattered is gathered first. Which
way a device takes is tried once, against attention by its definition; the first that agrees is used.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from triptych.engine.attention import PIECE_BY_PIECE, Attention, KVPool, Own, Pass, Piece
from triptych.engine.definition import Scoring, with_sinks

logger = logging.getLogger(__name__)

_TOLERANCE = 0.03
"""Between two ways to attend to random keys and values of size 1, in 16-bit floats."""


@dataclass(frozen=True, slots=True)
class Lines:
    """The pieces of a pass as the kernel wants them; int32 but for `gathered`."""

    firsts: Tensor
    """First packed token of each piece, and the end of the last, shape (pieces + 1,)."""
    starts: Tensor
    """Where the keys of each piece begin among those given, shape (pieces + 1,); the last is not read."""
    lengths: Tensor
    """Keys of each piece, shape (pieces,)."""
    most: int
    """Tokens of the longest piece; that many may be."""
    longest: int
    """Keys of the longest piece; that many may be."""
    table: Tensor | None = None
    """Blocks of each piece's request, shape (pieces, blocks of the longest): keys are paged."""
    gathered: Tensor | None = None
    """Places of all keys, in the order of the pieces, int64: keys are not side by side in the pool."""

    def to(self, device: torch.device) -> Lines:
        """On another device."""
        return Lines(
            self.firsts.to(device),
            self.starts.to(device),
            self.lengths.to(device),
            self.most,
            self.longest,
            None if self.table is None else self.table.to(device),
            None if self.gathered is None else self.gathered.to(device),
        )


class Kernel(Protocol):
    """Attention of pieces of any lengths, causal from the right, as `flash` has it."""

    def __call__(
        self, query: Tensor, keys: Tensor, values: Tensor, lines: Lines, scoring: Scoring
    ) -> Tensor: ...


def flash(query: Tensor, keys: Tensor, values: Tensor, lines: Lines, scoring: Scoring) -> Tensor:
    """Torch's kernel, which `torch.nn.attention.varlen.varlen_attn` calls too.

    Called without that wrapper, which takes a host's time in every layer.

    Args:
        query: shape (tokens, heads, head_dim).
        keys: shape (places, KV heads, head_dim), or (pages, block, KV heads, head_dim) with a table.
        values: likewise.
        lines: the pieces.
        scoring: of the layer, without a cap.

    Returns:
        Shape (tokens, heads, head_dim).

    Raises:
        RuntimeError: the kernel does not take this.
    """
    # A single token sees all keys whether causal or not, and the kernel is quicker if it is not told so.
    single = lines.most == 1
    back = -1 if scoring.window is None else scoring.window - 1
    paged = {} if lines.table is None else {"block_table": lines.table}
    out: Tensor
    weight: Tensor  # shape (heads, tokens)
    out, weight, *_ = torch.ops.aten._flash_attention_forward.default(
        query,
        keys,
        values,
        lines.firsts,
        lines.starts,
        lines.most,
        lines.longest,
        0.0,
        back < 0 and not single,
        False,
        scale=scoring.scale,
        window_size_left=back,
        window_size_right=-1 if back < 0 and single else 0,
        seqused_k=lines.lengths,
        **paged,
    )
    if scoring.sinks is None:
        return out
    return with_sinks(out.transpose(0, 1), weight, scoring.sinks).transpose(0, 1)


class Varlen:
    """All pieces in one call.

    Args:
        block_size: of pages that are told by block tables; None: keys lie side by side, or are gathered.
        kernel: torch's in use, another in tests.
    """

    apart = False
    columns = False

    def __init__(self, block_size: int | None = None, *, kernel: Kernel = flash) -> None:
        self.block_size = block_size
        self.takes_sinks = True
        """Whether the kernel tells what attention with sinks needs; if not that goes piece by piece."""
        self.name = "FlashAttention, one call a layer, " + ("side by side" if block_size is None else "paged")
        self._kernel = kernel

    def prepare(self, pieces: Sequence[Piece]) -> Lines:
        """The pieces for the kernel, on the CPU."""
        lengths = [piece.history + piece.tokens for piece in pieces]
        table = gathered = None
        if self.block_size is not None:
            table = _table(pieces, lengths, self.block_size)
            starts = [0, *accumulate(lengths)]
        elif all(isinstance(piece.place, int) for piece in pieces):
            starts = [piece.place for piece in pieces if isinstance(piece.place, int)]
            starts.append(starts[-1] + lengths[-1])
        else:
            gathered = torch.cat([_places(piece) for piece in pieces])
            starts = [0, *accumulate(lengths)]
        last = pieces[-1]
        return Lines(
            torch.tensor([*(piece.first for piece in pieces), last.first + last.tokens], dtype=torch.int32),
            torch.tensor(starts, dtype=torch.int32),
            torch.tensor(lengths, dtype=torch.int32),
            max(piece.tokens for piece in pieces),
            max(lengths),
            table,
            gathered,
        )

    def __call__(
        self, query: Tensor, keys: Tensor, values: Tensor, kv: Pass, scoring: Scoring, own: Own | None = None
    ) -> Tensor:
        """As `Attention` says.

        Raises:
            RuntimeError: the pass tells no pieces, and the kernel does not do what is asked.
        """
        if scoring.softcap is not None or (scoring.sinks is not None and not self.takes_sinks):
            if not kv.pieces:
                raise RuntimeError("attention with capped scores, or with these sinks, goes piece by piece")
            return PIECE_BY_PIECE(query, keys, values, replace(kv, prepared=None), scoring)
        lines: Lines = kv.prepared
        if lines.gathered is not None:
            keys, values = keys[lines.gathered], values[lines.gathered]
        elif self.block_size is not None:
            shape = (-1, self.block_size, *keys.shape[1:])
            keys, values = keys.view(shape), values.view(shape)
        return self._kernel(query.transpose(0, 1), keys, values, lines, scoring)


def _places(piece: Piece) -> Tensor:
    if isinstance(piece.place, Tensor):
        return piece.place
    return torch.arange(piece.place, piece.place + piece.history + piece.tokens)


def _table(pieces: Sequence[Piece], lengths: Sequence[int], block_size: int) -> Tensor:
    table = torch.zeros(len(pieces), -(-max(lengths) // block_size), dtype=torch.int32)
    for row, (piece, length) in enumerate(zip(pieces, lengths, strict=True)):
        table[row, : -(-length // block_size)] = _places(piece)[::block_size] // block_size
    return table


def choose(
    *,
    kv_heads: int,
    head_dim: int,
    block_size: int,
    dtype: torch.dtype,
    device: torch.device,
    kernel: Kernel | None = None,
) -> Attention:
    """How a device attends to a pool of this shape: the first way that it takes and gets right.

    Args:
        kv_heads: of the pool.
        head_dim: likewise.
        block_size: places of a page.
        dtype: of keys and values.
        device: where they are.
        kernel: that is tried; None: torch's on CUDA, and none on other devices.
    """
    if kernel is None and device.type == "cuda":
        kernel = flash
    if kernel is None:
        return PIECE_BY_PIECE
    for candidate in (Varlen(block_size, kernel=kernel), Varlen(kernel=kernel)):
        problem = _problem(candidate, kv_heads, head_dim, block_size, dtype, device)
        if problem is None:
            logger.info("attention: %s", candidate.name)
            lost = _problem(candidate, kv_heads, head_dim, block_size, dtype, device, sinks=True)
            if lost is not None:
                logger.info("attention with sinks: piece by piece: %s", lost)
                candidate.takes_sinks = False
            return candidate
        logger.info("attention: not %s: %s", candidate.name, problem)
    logger.info("attention: %s", PIECE_BY_PIECE.name)
    return PIECE_BY_PIECE


def _problem(
    candidate: Varlen,
    kv_heads: int,
    head_dim: int,
    block: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    sinks: bool = False,
) -> str | None:
    """What is wrong with a way to attend; None: it agrees with the definition on small batches."""
    noise = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, generator=noise).to(device, dtype)

    pool = KVPool(layers=0, tokens=0, heads=kv_heads, head_dim=head_dim, dtype=dtype, device=device)
    span = block * -(-8 // block)  # whole pages that hold a few tokens
    keys, values = some(8 * span, kv_heads, head_dim), some(8 * span, kv_heads, head_dim)
    prompts = [Piece(0, 5, 0, 6 * span), Piece(5, 3, 2 * span - 2, 2 * span), Piece(8, 1, span, span)]
    singles = [Piece(0, 1, span, 5 * span), Piece(1, 1, 0, 7 * span), Piece(2, 1, 2 * span, span)]
    given = some(2 * kv_heads) if sinks else None
    apart = torch.cat([torch.arange(span, 2 * span), torch.arange(1)])
    try:
        for pieces in (prompts, singles, [*singles, Piece(3, 1, span, apart)]):
            query = some(2 * kv_heads, pieces[-1].first + pieces[-1].tokens, head_dim)
            batch = Pass(pool, pieces, torch.empty(0), candidate, candidate.prepare(pieces).to(device))
            for window in (None, span // 2):
                scoring = Scoring(0.2, window, given)
                found = candidate(query, keys, values, batch, scoring)
                whole = replace(batch, prepared=None)
                expected = PIECE_BY_PIECE(query.float(), keys.float(), values.float(), whole, scoring)
                worst = (found.float() - expected).abs().max().item()
                if not worst < _TOLERANCE:
                    return f"it is off by {worst:.2g}"
    except (RuntimeError, TypeError) as error:
        return str(error).partition("\n")[0] or type(error).__name__
    return None
