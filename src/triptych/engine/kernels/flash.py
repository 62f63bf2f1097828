"""FlashAttention on the CPU: torch's kernel over what lies side by side, and merges of its outputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from triptych.engine.definition import Scoring, with_sinks

Stretches = Sequence[tuple[int, int]]
"""First place and number of places of each, in the order of the request's tokens."""

_MOST = 8
"""Stretches that are attended to one by one: over more, of a page or two each, gathering is no slower."""
_Part = tuple[Tensor, Tensor]
"""Output, shape (batch, heads, tokens, head_dim), and log-sum-exp of the scores, without the last."""


def stretches(places: Tensor) -> Stretches | None:
    """The places of a request, shape (context,), as stretches of places side by side; None if too many."""
    found = all_stretches(places)
    return None if len(found) > _MOST else found


def all_stretches(places: Tensor) -> Stretches:
    """The places of a request as stretches, however many."""
    breaks = torch.nonzero(torch.diff(places) != 1).flatten() + 1
    edges = [0, *breaks.tolist(), len(places)]
    return [(int(places[first]), last - first) for first, last in pairwise(edges)]


def attend_side_by_side(query: Tensor, keys: Tensor, values: Tensor, scoring: Scoring) -> Tensor:
    """Causal attention of the last tokens of a request over its keys and values.

    Args:
        query: shape (heads, tokens, head_dim).
        keys: shape (context, KV heads, head_dim).
        values: likewise.
        scoring: of the layer; neither the window nor the cap is looked at.

    Returns:
        Shape (tokens, heads, head_dim).
    """
    return attend_stretches(query, keys, values, [(0, keys.shape[0])], scoring)


def attend_stretches(
    query: Tensor, keys: Tensor, values: Tensor, places: Stretches, scoring: Scoring
) -> Tensor:
    """As `attend_side_by_side`, of a request whose keys are stretches of those given."""
    heads, tokens, width = query.shape
    parts = (
        _one(query, keys, values, places, scoring.scale)
        if tokens == 1
        else _several(query, keys, values, places, scoring.scale)
    )
    out, weight = next(parts)
    for other in parts:
        out, weight = _merged(out, weight, *other)
    out = out.reshape(heads, tokens, width)
    if scoring.sinks is not None:
        out = with_sinks(out, weight.reshape(heads, tokens), scoring.sinks)
    return out.transpose(0, 1)


def _one(query: Tensor, keys: Tensor, values: Tensor, places: Stretches, scale: float) -> Iterator[_Part]:
    """Of a single token: heads that share keys are rows of one product."""
    grouped = query.reshape(1, keys.shape[1], -1, query.shape[2])
    for first, count in places:
        k, v = (tensor[first : first + count].transpose(0, 1).unsqueeze(0) for tensor in (keys, values))
        yield _flash(grouped, k, v, False, scale)


def _several(query: Tensor, keys: Tensor, values: Tensor, places: Stretches, scale: float) -> Iterator[_Part]:
    """Of several tokens: causal attention is for as many keys as tokens, so history goes apart."""
    heads, tokens, width = query.shape
    kv_heads = keys.shape[1]
    shared = heads // kv_heads
    grouped = query.reshape(kv_heads, shared, tokens, width)
    *before, (first, count) = places
    own = first + count - tokens
    for begin, end in (
        (own, own + tokens),
        (first, own),
        *((start, start + length) for start, length in before),
    ):
        if begin < end:
            k, v = (
                tensor[begin:end].transpose(0, 1).unsqueeze(1).expand(-1, shared, -1, -1)
                for tensor in (keys, values)
            )
            yield _flash(grouped, k, v, begin == own, scale)


def _flash(query: Tensor, keys: Tensor, values: Tensor, causal: bool, scale: float) -> _Part:
    if keys.stride(-1) != 1:  # the kernel takes it for granted
        keys = keys.contiguous()
    out, weight = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, keys, values, 0.0, causal, scale=scale
    )
    return out, weight


def _merged(one: Tensor, one_weight: Tensor, other: Tensor, other_weight: Tensor) -> _Part:
    """Attention over two sets of keys from that over each, weighed by their softmax denominators.

    Source: Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018.
    """
    share = torch.sigmoid(one_weight - other_weight).unsqueeze(-1).to(torch.float32)
    out = torch.lerp(other.float(), one.float(), share).to(one.dtype)
    return out, torch.logaddexp(one_weight, other_weight)
