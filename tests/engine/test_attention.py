"""Paged attention against its definition, for every way that a piece can be computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from triptych.engine import attention
from triptych.engine.attention import PIECE_BY_PIECE, KVPool, Pass, Piece, attend


class Layer(nn.Module):
    layer_idx = 1


def definition(query: Tensor, keys: Tensor, values: Tensor, scale: float, window: int | None) -> Tensor:
    """Softmax of the scores of all that each token sees, head by head."""
    heads, tokens, _ = query.shape
    context, kv_heads, _ = keys.shape
    out = torch.zeros(tokens, heads, query.shape[2], dtype=torch.float64)
    for head in range(heads):
        shared = head // (heads // kv_heads)
        for token in range(tokens):
            last = context - tokens + token
            first = 0 if window is None else max(0, last - window + 1)
            scores = keys[first : last + 1, shared].double() @ query[head, token].double() * scale
            out[token, head] = scores.softmax(-1) @ values[first : last + 1, shared].double()
    return out.float()


@given(
    lengths=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20)), min_size=1, max_size=4),
    kv_heads=st.sampled_from([1, 2]),
    shared=st.sampled_from([1, 3]),
    window=st.sampled_from([None, 5, 16]),
    lie=st.sampled_from(["side by side", "in stretches", "scattered"]),
    anywhere=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_each_piece_sees_its_own_context(
    lengths: list[tuple[int, int]],
    kv_heads: int,
    shared: int,
    window: int | None,
    lie: str,
    anywhere: bool,
) -> None:
    side_by_side = lie == "side by side"
    width, heads = 8, kv_heads * shared
    noise = torch.Generator().manual_seed(1)
    pool = KVPool(layers=2, tokens=400, heads=kv_heads, head_dim=width, dtype=torch.float32, device="cpu")
    pool.keys[1] = torch.randn(400, kv_heads, width, generator=noise)
    pool.values[1] = torch.randn(400, kv_heads, width, generator=noise)
    free = torch.arange(400) if side_by_side else torch.randperm(400, generator=noise)
    if lie == "in stretches":
        free = (torch.randperm(400 // 16, generator=noise)[:, None] * 16 + torch.arange(16)).flatten()
    pieces, places, first, used = [], [], 0, 0
    for history, tokens in lengths:
        own = free[used : used + history + tokens]
        pieces.append(Piece(first, tokens, history, int(own[0]) if side_by_side else own))
        places.append(own[history:])
        first, used = first + tokens, used + history + tokens
    query = torch.randn(1, heads, first, width, generator=noise)
    key, value = (torch.randn(1, kv_heads, first, width, generator=noise) for _ in range(2))
    lines = None if anywhere else PIECE_BY_PIECE.prepare(pieces)
    batch = Pass(pool, pieces, torch.cat(places), PIECE_BY_PIECE, lines)
    with pytest.MonkeyPatch.context() as patch:
        if anywhere:  # what devices other than the CPU run
            patch.setattr(attention, "attend_side_by_side", attention._elsewhere)
        out, _ = attend(Layer(), query, key, value, None, 0.3, sliding_window=window, kv=batch)
    used = 0
    for piece in pieces:
        end, context = piece.first + piece.tokens, piece.history + piece.tokens
        own = free[used : used + context]
        used += context
        expected = definition(
            query[0, :, piece.first : end], pool.keys[1][own], pool.values[1][own], 0.3, window
        )
        torch.testing.assert_close(out[0, piece.first : end], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            pool.keys[1][own[piece.history :]], key[0, :, piece.first : end].transpose(0, 1)
        )


@pytest.mark.parametrize("asked", [{"softcap": 50.0}, {"s_aux": torch.zeros(1)}])
def test_what_would_change_the_output_is_not_ignored(asked: dict[str, Any]) -> None:
    rows = torch.zeros(1, 1, 1, 8)
    pool = KVPool(layers=2, tokens=1, heads=1, head_dim=8, dtype=torch.float32, device="cpu")
    batch = Pass(pool, [Piece(0, 1, 0, 0)], torch.zeros(1, dtype=torch.long))
    attend(Layer(), rows, rows, rows, None, softcap=None, s_aux=None, kv=batch)
    with pytest.raises(ValueError, match=next(iter(asked))):
        attend(Layer(), rows, rows, rows, None, kv=batch, **asked)


def test_a_forward_without_a_pass_is_refused() -> None:
    rows = torch.zeros(1, 1, 1, 8)
    with pytest.raises(ValueError, match="kv="):
        attend(Layer(), rows, rows, rows, None)
