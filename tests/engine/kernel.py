"""Stands in for CUDA's kernel: the same arguments, the same demands, attention by its definition."""

from __future__ import annotations

import torch
from torch import Tensor

from triptych.engine.definition import Scoring
from triptych.engine.varlen import Lines


def kernel(query: Tensor, keys: Tensor, values: Tensor, lines: Lines, scoring: Scoring) -> Tensor:
    """As `varlen.flash`."""
    count = len(lines.lengths)
    tensors = [lines.firsts, lines.starts, lines.lengths, *([] if lines.table is None else [lines.table])]
    assert {each.dtype for each in tensors} == {torch.int32}
    assert lines.firsts.shape == lines.starts.shape == (count + 1,)
    assert lines.firsts[0] == 0
    assert lines.firsts[-1] == len(query)
    assert query.stride(-1) == keys.stride(-1) == values.stride(-1) == 1
    assert lines.lengths.max() <= lines.longest
    assert lines.firsts.diff().max() <= lines.most
    out = torch.full_like(query, torch.nan)
    for piece in range(count):
        first, end = int(lines.firsts[piece]), int(lines.firsts[piece + 1])
        context = int(lines.lengths[piece])
        if lines.table is None:
            start = int(lines.starts[piece])
            k, v = keys[start : start + context], values[start : start + context]
        else:
            blocks = lines.table[piece, : -(-context // keys.shape[1])].long()
            k, v = keys[blocks].flatten(0, 1)[:context], values[blocks].flatten(0, 1)[:context]
        assert len(k) == context
        out[first:end] = _attend(query[first:end], k, v, scoring)
    return out


def pages_of_256(query: Tensor, keys: Tensor, values: Tensor, lines: Lines, scoring: Scoring) -> Tensor:
    """As `kernel`, with the demand of torch 2.13."""
    if lines.table is not None and keys.shape[1] % 256:
        raise RuntimeError("Paged KV cache block size must be divisible by 256")
    return kernel(query, keys, values, lines, scoring)


def _attend(query: Tensor, keys: Tensor, values: Tensor, scoring: Scoring) -> Tensor:
    shared = query.shape[1] // keys.shape[1]
    k, v = keys.repeat_interleave(shared, dim=1), values.repeat_interleave(shared, dim=1)
    scores = torch.einsum("qhd,khd->hqk", query.float(), k.float()) * scoring.scale
    own = torch.arange(len(keys) - len(query), len(keys)).unsqueeze(1)
    behind = own - torch.arange(len(keys))
    seen = behind >= 0
    if scoring.window is not None:
        seen &= behind < scoring.window
    scores = scores.masked_fill(~seen, -torch.inf)
    if scoring.sinks is None:
        weights = scores.softmax(-1)
    else:
        own_score = scoring.sinks.float().view(-1, 1, 1).expand(-1, len(query), 1)
        weights = torch.cat([scores, own_score], -1).softmax(-1)[..., :-1]
    return torch.einsum("hqk,khd->qhd", weights, v.float()).to(query.dtype)
