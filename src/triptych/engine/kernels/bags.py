"""Attention of all single tokens of a batch at once, as weighted sums of rows of a table.

That is what torch's `embedding_bag` computes, in one call for any number of bags, by a kernel that is made to
read memory at full speed. The output of a head is such a sum: the rows are its values, weighed by the
softmax. So are its scores, where keys lie in columns (`KVPool`): a row is one number of the keys of some
tokens side by side, weighed by that number of the query. Neither cares where in the pool a request's tokens
lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from triptych.engine.attention import COLUMNS, Own, Pass, Piece, PieceByPiece
from triptych.engine.definition import Scoring, with_sinks
from triptych.engine.kernels.flash import Stretches, all_stretches

_NARROW = 16
"""Tokens of a row of keys where requests lie in pieces too small for rows of `COLUMNS`."""
_SPARE = 1.5
"""Times the tokens of a batch that rows of `COLUMNS` may hold; else they are narrow."""
_LIKE = 2
"""Contexts of a group are at most so many times as long as the shortest: scores are kept for the longest."""

Ints = npt.NDArray[np.int64]


class _Rows(NamedTuple):
    """What is summed up where, for `embedding_bag`."""

    indices: Tensor
    """Rows of the table."""
    offsets: Tensor
    """First index of each bag, and the end of the last."""
    weights: Tensor | None
    """Where the weights of `indices` lie among those given; None: they are all, in order."""


class _Layout(NamedTuple):
    """Where the tokens of some requests lie, for tables of one pool."""

    width: int
    """Tokens of a row of keys."""
    keys: _Rows
    """Bags are (request, head, row of tokens); weights are by query, of `head_dim` numbers each."""
    values: _Rows
    """Bags are (request, head)."""
    unseen: Tensor
    """Which scores belong to no token, bool, shape (requests, 1, scores)."""


@dataclass
class _Group:
    """Single tokens of like context."""

    rows: list[int]
    """Among the packed tokens."""
    requests: list[Stretches]
    contexts: list[int]
    layouts: dict[int | None, _Layout] = field(default_factory=dict)
    """By window, made when the first layer that has it asks."""


class Prepared(NamedTuple):
    """The pieces of a pass, apart."""

    groups: list[_Group]
    prompts: list[Piece]

    def to(self, device: torch.device) -> Prepared:
        """The same: the CPU's."""
        return self


class Bags:
    """Single tokens all at once, prompts piece by piece.

    Args:
        prompts: attention of the pieces of prompts.
    """

    columns = True
    apart = True

    def __init__(self, prompts: PieceByPiece) -> None:
        self.name = f"decodes by embedding bags, {prompts.prompts_name}"
        self._prompts = prompts

    def prepare(self, pieces: Sequence[Piece]) -> Prepared:
        """The single tokens in groups of like context, and the prompts."""
        singles = sorted(
            (piece for piece in pieces if piece.tokens == 1), key=lambda piece: (piece.history, piece.first)
        )
        groups: list[_Group] = []
        for piece in singles:
            context = piece.history + 1
            if not groups or context > _LIKE * groups[-1].contexts[0]:
                groups.append(_Group([], [], []))
            place = piece.place
            lies = [(place, context)] if isinstance(place, int) else all_stretches(place)
            groups[-1].rows.append(piece.first)
            groups[-1].requests.append(lies)
            groups[-1].contexts.append(context)
        return Prepared(groups, [piece for piece in pieces if piece.tokens > 1])

    def __call__(
        self, query: Tensor, keys: Tensor, values: Tensor, kv: Pass, scoring: Scoring, own: Own | None = None
    ) -> Tensor:
        """As `Attention` says."""
        heads, tokens, width = query.shape
        out = query.new_empty((tokens, heads, width))
        self.attend_singles(query, keys, values, kv, scoring, out)
        self.attend_prompts(query, keys, values, kv, scoring, own, out)
        return out

    def attend_singles(
        self, query: Tensor, keys: Tensor, values: Tensor, kv: Pass, scoring: Scoring, out: Tensor
    ) -> None:
        """Writes what single tokens attend to into `out`, shape (tokens, heads, head_dim)."""
        prepared: Prepared = kv.prepared
        for group in prepared.groups:
            layout = group.layouts.get(scoring.window)
            if layout is None:
                requests = [_last(lies, scoring.window) for lies in group.requests]
                layout = _layout(requests, query.shape[0], keys)
                group.layouts[scoring.window] = layout
            some = (query[:, group.rows].transpose(0, 1) * scoring.scale).to(keys.dtype)
            out[group.rows] = _attend(some, keys, values, layout, scoring).to(out.dtype)

    def attend_prompts(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        kv: Pass,
        scoring: Scoring,
        own: Own | None,
        out: Tensor,
    ) -> None:
        """Likewise of prompts."""
        for piece in kv.prepared.prompts:
            end = piece.first + piece.tokens
            out[piece.first : end] = self._prompts.attend(piece, None, query, keys, values, scoring, own)


def _attend(query: Tensor, keys: Tensor, values: Tensor, layout: _Layout, scoring: Scoring) -> Tensor:
    """Attention of single tokens, shape (requests, heads, head_dim) in and out; queries are scaled."""
    requests, heads, _ = query.shape
    table = keys.permute(1, 2, 0).view(-1, layout.width)
    by_bag = query.reshape(requests * heads, -1).index_select(0, _given(layout.keys.weights))
    scores = _sums(table, layout.keys, by_bag.view(-1)).view(requests, heads, -1)
    if scoring.softcap is not None:
        scores = scores.float().div_(scoring.softcap).tanh_().mul_(scoring.softcap)
    scores.masked_fill_(layout.unseen, -torch.inf)
    weights = scores.softmax(-1).to(values.dtype).view(-1)
    if layout.values.weights is not None:
        weights = weights.index_select(0, layout.values.weights)
    out = _sums(values.transpose(0, 1).view(-1, values.shape[2]), layout.values, weights)
    out = out.view(requests, heads, -1)
    if scoring.sinks is not None:
        weight = scores.float().logsumexp(-1).transpose(0, 1)
        out = with_sinks(out.transpose(0, 1), weight, scoring.sinks).transpose(0, 1)
    return out


def _sums(table: Tensor, rows: _Rows, weights: Tensor) -> Tensor:
    """A row for each bag: the sum of its rows of the table, each times its weight."""
    out: Tensor = torch.embedding_bag(table, rows.indices, rows.offsets, False, 0, False, weights, True)[0]
    return out


def _given(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor


def _last(lies: Stretches, window: int | None) -> Stretches:
    """The stretches of the last tokens."""
    if window is None:
        return lies
    kept: list[tuple[int, int]] = []
    for first, count in reversed(lies):
        taken = min(count, window)
        if taken:
            kept.append((first + count - taken, taken))
        window -= taken
    return kept[::-1]


def _layout(requests: Sequence[Stretches], heads: int, keys: Tensor) -> _Layout:
    """Indices of all that the requests see.

    Args:
        requests: where the tokens of each lie.
        heads: of queries.
        keys: of a layer, shape (places, KV heads, head_dim).
    """
    places, kv_heads, head_dim = keys.shape
    flat = np.array([part for lies in requests for part in lies], dtype=np.int64)
    first, count = flat[:, 0], flat[:, 1]
    owner = np.repeat(np.arange(len(requests)), [len(lies) for lies in requests])
    width = COLUMNS
    if _tiles(first, count, width).sum() * width > _SPARE * count.sum() + len(requests) * width:
        width = _NARROW
    tiles = _tiles(first, count, width)
    part = np.repeat(np.arange(len(flat)), tiles)
    tile = (first // width)[part] + _within(tiles)
    at = tile[:, None] * width + np.arange(width)
    seen = (at >= first[part, None]) & (at < (first + count)[part, None])
    owned = np.bincount(owner[part], minlength=len(requests))
    slot = (owner[part], _within(owned))
    shape = (len(requests), int(owned.max()))
    head = np.arange(heads) // (heads // kv_heads)
    # Keys: a bag for each request, head and row of tokens; where there is no such row it is empty.
    own_tile, there = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.bool_)
    own_tile[slot], there[slot] = tile, True
    rows = (head[:, None] * head_dim + np.arange(head_dim)) * (places // width)
    indices = rows[None, :, None, :] + own_tile[:, None, :, None]
    bags = np.broadcast_to(there[:, None, :], (shape[0], heads, shape[1]))
    queries = np.broadcast_to(np.arange(shape[0] * heads).reshape(shape[0], heads, 1), bags.shape)
    by_key = _rows(indices if there.all() else indices[bags], bags.ravel() * head_dim, queries[bags])
    # Values: a bag for each request and head, whose weights are the scores of what it sees.
    place, mine = np.zeros((*shape, width), dtype=np.int64), np.zeros((*shape, width), dtype=np.bool_)
    place[slot], mine[slot] = at, seen
    place, mine = place.reshape(shape[0], 1, -1), mine.reshape(shape[0], 1, -1)
    scores = np.broadcast_to(mine, (shape[0], heads, mine.shape[2]))
    by_value = _rows(
        (head[:, None] * places + place)[scores],
        np.repeat(mine.sum(-1).ravel(), heads),
        None if mine.all() else np.flatnonzero(scores),
    )
    return _Layout(width, by_key, by_value, torch.from_numpy(~mine))


def _tiles(first: Ints, count: Ints, width: int) -> Ints:
    """Rows of `width` tokens in which stretches lie."""
    return (first + count - 1) // width - first // width + 1


def _within(counts: Ints) -> Ints:
    """0, 1, ... within each of several runs of these lengths."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _rows(indices: npt.NDArray[Any], counts: Ints, weights: Ints | None) -> _Rows:
    """Rows from the indices of all bags in order and the number of indices in each."""
    offsets = np.concatenate([[0], np.cumsum(counts)])
    narrow = max(int(indices.max()), int(offsets[-1])) < 2**31
    kind = np.int32 if narrow else np.int64
    return _Rows(
        torch.from_numpy(indices.ravel().astype(kind)),
        torch.from_numpy(offsets.astype(kind)),
        None if weights is None else torch.from_numpy(weights),
    )
