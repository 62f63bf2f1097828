"""Attention by its definition, also for what no kernel of torch computes; and the share that a sink takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_SCORES = 1 << 24
"""That are held at a time: 64 MiB of float32, whatever a prompt's length."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """How a layer scores keys for a query."""

    scale: float
    """Of the product of the two."""
    window: int | None = None
    """Tokens back that a token sees, itself included; None: all."""
    sinks: Tensor | None = None
    """A score for each head that takes part in the softmax's denominator alone; None: none."""
    softcap: float | None = None
    """Scores s become softcap * tanh(s / softcap); None: they stay."""


def attend_by_definition(query: Tensor, keys: Tensor, values: Tensor, scoring: Scoring) -> Tensor:
    """Causal attention of the last tokens of a request, in float32, some tokens at a time.

    Args:
        query: shape (heads, tokens, head_dim).
        keys: shape (context, KV heads, head_dim).
        values: likewise.
        scoring: of the layer.

    Returns:
        Shape (tokens, heads, head_dim).
    """
    out = attend_in_blocks(query.float(), keys.float(), values.float(), scoring, query.shape[1])
    return out.to(query.dtype)


def attend_in_blocks(query: Tensor, keys: Tensor, values: Tensor, scoring: Scoring, most: int) -> Tensor:
    """As `attend_by_definition`, in the format of what is given, at most so many tokens at a time.

    A block of tokens is multiplied with the keys up to its last token alone, and heads that share keys are
    rows of one product.
    """
    heads, tokens, width = query.shape
    window, softcap = scoring.window, scoring.softcap
    if window is not None:  # without the keys that no token sees
        keys, values = keys[-window - tokens + 1 :], values[-window - tokens + 1 :]
    context, kv_heads, _ = keys.shape
    history = context - tokens
    columns, rows = keys.permute(1, 2, 0), values.transpose(0, 1)
    out = query.new_empty((tokens, heads, width))
    seen = context if window is None else min(context, 2 * window)
    step = max(1, min(tokens if window is None else window, most, _SCORES // (heads * seen)))
    for first in range(0, tokens, step):
        last = min(first + step, tokens)
        begin = 0 if window is None else max(0, history + first - window + 1)
        end = history + last
        some = query[:, first:last].reshape(kv_heads, -1, width) * scoring.scale
        scores = (some @ columns[:, :, begin:end]).view(heads, last - first, -1)
        if softcap is not None:
            scores = scores.float().div_(softcap).tanh_().mul_(softcap)
        if last - first > 1:
            masked = begin if window is not None else history + first  # before, every token sees every key
            unseen = _unseen(history + first, end, masked, window, query.device)
            scores[..., masked - begin :].masked_fill_(unseen, -torch.inf)
        weights = scores.softmax(-1).to(query.dtype).view(kv_heads, -1, end - begin)
        part = (weights @ rows[:, begin:end]).view(heads, last - first, width)
        if scoring.sinks is not None:
            part = with_sinks(part, scores.float().logsumexp(-1), scoring.sinks)
        out[first:last] = part.transpose(0, 1)
    return out


def with_sinks(out: Tensor, weight: Tensor, sinks: Tensor) -> Tensor:
    """Attention with a sink in each head, from attention without.

    A sink is a score that takes part in the softmax's denominator and has no value: what it takes is lost.

    Args:
        out: without, shape (heads, tokens, head_dim).
        weight: log-sum-exp of each token's scores, float32, shape (heads, tokens).
        sinks: a score for each head.
    """
    share = torch.sigmoid(weight - sinks.unsqueeze(1)).unsqueeze(-1)
    return (out * share).to(out.dtype)


def _unseen(first: int, last: int, begin: int, window: int | None, device: torch.device) -> Tensor:
    """Which keys, from position `begin` on, tokens from `first` to `last` do not see; (tokens, keys)."""
    own = torch.arange(first, last, device=device).unsqueeze(1)
    back = own - torch.arange(begin, last, device=device)
    return back < 0 if window is None else (back < 0) | (back >= window)
