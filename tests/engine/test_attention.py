"""Paged attention against its definition, for every way that a piece can be computed."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from triptych.engine import definition, piece
from triptych.engine.attention import PIECE_BY_PIECE, KVPool, Pass, Piece, attend
from triptych.engine.definition import Scoring, attend_by_definition
from triptych.engine.kernels.candidates import DECODES, attention

KERNELS = [None, *product(["flash", "blocks of 64", "blocks of 128"], DECODES)]
"""Kernels of prompts and of single tokens; None: as devices without a choice attend."""


class Layer(nn.Module):
    layer_idx = 1


def expected_of(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    scale: float,
    window: int | None,
    sinks: Tensor | None = None,
    softcap: float | None = None,
) -> Tensor:
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
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            weights = scores.exp()
            total = weights.sum() + (0.0 if sinks is None else sinks[head].double().exp())
            out[token, head] = weights / total @ values[first : last + 1, shared].double()
    return out.float()


@given(
    lengths=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20)), min_size=1, max_size=4),
    kv_heads=st.sampled_from([1, 2]),
    shared=st.sampled_from([1, 3]),
    window=st.sampled_from([None, 5, 16]),
    lie=st.sampled_from(["side by side", "in stretches", "scattered"]),
    anywhere=st.booleans(),
    sinks=st.booleans(),
    softcap=st.sampled_from([None, None, 1.5]),
    kernels=st.sampled_from(KERNELS),
)
@settings(max_examples=200, deadline=None)
def test_each_piece_sees_its_own_context(
    lengths: list[tuple[int, int]],
    kv_heads: int,
    shared: int,
    window: int | None,
    lie: str,
    anywhere: bool,
    sinks: bool,
    softcap: float | None,
    kernels: tuple[str, str] | None,
) -> None:
    chosen = PIECE_BY_PIECE if kernels is None or anywhere else attention(*kernels)
    side_by_side = lie == "side by side"
    width, heads = 8, kv_heads * shared
    noise = torch.Generator().manual_seed(1)
    pool = KVPool(
        layers=2,
        tokens=400,
        heads=kv_heads,
        head_dim=width,
        dtype=torch.float32,
        device="cpu",
        columns=chosen.columns,
    )
    pool.keys[1, :400] = torch.randn(400, kv_heads, width, generator=noise)
    pool.values[1, :400] = torch.randn(400, kv_heads, width, generator=noise)
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
    lines = None if anywhere else chosen.prepare(pieces)
    batch = Pass(pool, pieces, torch.cat(places), chosen, lines)
    more: dict[str, Any] = {"sinks": torch.randn(heads, generator=noise) if sinks else None}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(definition, "_SCORES", 64)  # so that a piece takes several steps
        if anywhere:  # what devices other than the CPU run
            patch.setattr(piece, "on_cpu", lambda tensor: False)
        asked = {"sliding_window": window, "s_aux": more["sinks"], "softcap": softcap}
        out, _ = attend(Layer(), query, key, value, None, 0.3, kv=batch, **asked)
    used = 0
    for one in pieces:
        end, context = one.first + one.tokens, one.history + one.tokens
        own = free[used : used + context]
        used += context
        own_query = query[0, :, one.first : end]
        expected = expected_of(
            own_query, pool.keys[1][own], pool.values[1][own], 0.3, window, softcap=softcap, **more
        )
        torch.testing.assert_close(out[0, one.first : end], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            pool.keys[1][own[one.history :]], key[0, :, one.first : end].transpose(0, 1)
        )


def test_sinks_and_caps_keep_the_format_of_the_model() -> None:
    query, rows = torch.ones(2, 3, 8, dtype=torch.bfloat16), torch.ones(7, 1, 8, dtype=torch.bfloat16)
    pool = KVPool(layers=1, tokens=0, heads=1, head_dim=8, dtype=torch.bfloat16, device="cpu")
    batch = Pass(pool, [Piece(0, 3, 4, 0)], torch.empty(0))
    for window, softcap in ((None, None), (2, None), (None, 5.0)):
        sinks = torch.zeros(2, dtype=torch.bfloat16)
        out = PIECE_BY_PIECE(query, rows, rows, batch, Scoring(1.0, window, sinks, softcap))
        assert out.dtype == torch.bfloat16
        assert out.shape == (3, 2, 8)


def test_memory_by_definition_does_not_grow_with_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []

    def counted(first: int, last: int, begin: int, *others: Any) -> Tensor:
        held.append(4 * (last - first) * (last - begin))
        return unseen(first, last, begin, *others)

    unseen = definition._unseen
    monkeypatch.setattr(definition, "_unseen", counted)
    monkeypatch.setattr(definition, "_SCORES", 10_000)
    query, rows = torch.randn(4, 300, 8), torch.randn(500, 2, 8)
    for window in (None, 100, 600):
        attend_by_definition(query, rows, rows, Scoring(0.3, window, softcap=2.0))
        assert len(held) > 10
        assert max(held) <= 10_000


@pytest.mark.parametrize(
    "asked", [{"position_bias": torch.zeros(1)}, {"indices": torch.zeros(1)}, {"block_indices": [0]}]
)
def test_what_would_change_the_output_is_not_ignored(asked: dict[str, Any]) -> None:
    rows = torch.zeros(1, 1, 1, 8)
    pool = KVPool(layers=2, tokens=1, heads=1, head_dim=8, dtype=torch.float32, device="cpu")
    batch = Pass(pool, [Piece(0, 1, 0, 0)], torch.zeros(1, dtype=torch.long))
    attend(Layer(), rows, rows, rows, None, position_bias=None, indices=None, kv=batch)
    with pytest.raises(ValueError, match=next(iter(asked))):
        attend(Layer(), rows, rows, rows, None, kv=batch, **asked)


def test_a_forward_without_a_pass_is_refused() -> None:
    rows = torch.zeros(1, 1, 1, 8)
    with pytest.raises(ValueError, match="kv="):
        attend(Layer(), rows, rows, rows, None)


@pytest.mark.parametrize("tokens", [1, 6])
@pytest.mark.parametrize("place", [48, [(16, 32), (96, 14)]])
def test_a_pool_may_be_of_a_narrower_format_than_queries(tokens: int, place: Any) -> None:
    noise = torch.Generator().manual_seed(2)
    pool = KVPool(layers=2, tokens=200, heads=2, head_dim=16, dtype=torch.bfloat16, device="cpu")
    for tensor in (pool.keys, pool.values):
        tensor[1] = torch.randn(200, 2, 16, generator=noise)
    query, key, value = (torch.randn(1, heads, tokens, 16, generator=noise) for heads in (4, 2, 2))
    places = torch.arange(place, place + 46) if isinstance(place, int) else None
    if places is None:
        places = torch.cat([torch.arange(first, first + count) for first, count in place])
    piece = Piece(0, tokens, 46 - tokens, place if isinstance(place, int) else places)
    batch = Pass(pool, [piece], places[-tokens:], PIECE_BY_PIECE, PIECE_BY_PIECE.prepare([piece]))
    found, _ = attend(Layer(), query, key, value, None, kv=batch)
    expected = expected_of(query[0], pool.keys[1, places], pool.values[1, places], 0.25, None)
    assert found.dtype is torch.float32
    torch.testing.assert_close(found[0], expected, rtol=0.02, atol=0.02)
