"""Attention by products of matrices: prompts in blocks of tokens, single tokens with their keys as rows."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from triptych.engine.definition import Scoring, attend_in_blocks, with_sinks
from triptych.engine.piece import Kernel


def in_blocks(most: int) -> Kernel:
    """Prompts, so many tokens at a time: the fewer, the less is computed of what causality hides."""
    return partial(_in_blocks, most)


def _in_blocks(most: int, query: Tensor, keys: Tensor, values: Tensor, scoring: Scoring, /) -> Tensor:
    return attend_in_blocks(query, keys, values, scoring, most)


def attend_single(query: Tensor, keys: Tensor, values: Tensor, scoring: Scoring, /) -> Tensor:
    """Attention of one token, as `attend_piece`.

    Keys are the left factor as they lie, a token a row, where a library would rearrange what stands on the
    right; heads that share them are columns.
    """
    heads, _, width = query.shape
    if scoring.window is not None:
        keys, values = keys[-scoring.window :], values[-scoring.window :]
    grouped = query.reshape(keys.shape[1], -1, width)
    scores = (keys.transpose(0, 1) @ grouped.transpose(1, 2)).transpose(1, 2).float() * scoring.scale
    if scoring.softcap is not None:
        scores = scores.div_(scoring.softcap).tanh_().mul_(scoring.softcap)
    out = (scores.softmax(-1).to(values.dtype) @ values.transpose(0, 1)).view(heads, 1, width)
    if scoring.sinks is not None:
        out = with_sinks(out, scores.logsumexp(-1).view(heads, 1), scoring.sinks)
    return out.transpose(0, 1)


def in_float32(kernel: Kernel) -> Kernel:
    """A kernel that converts what it is given."""

    def wide(query: Tensor, keys: Tensor, values: Tensor, scoring: Scoring, /) -> Tensor:
        return kernel(query.float(), keys.float(), values.float(), scoring).to(query.dtype)

    return wide
