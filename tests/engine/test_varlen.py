"""All pieces of a batch in one call attend as they do one by one, and the device's way is found by trial."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from triptych.engine.attention import PIECE_BY_PIECE, Attention, KVPool, Pass, Piece, attend
from triptych.engine.definition import Scoring
from triptych.engine.varlen import Lines, Varlen, choose

from . import tiny
from .kernel import kernel, pages_of_256

CPU = torch.device("cpu")


class Layer(nn.Module):
    layer_idx = 0


@given(
    lengths=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20)), min_size=1, max_size=4),
    shared=st.sampled_from([1, 3]),
    window=st.sampled_from([None, 5, 16]),
    side_by_side=st.booleans(),
    paged=st.booleans(),
    decodes=st.booleans(),
    sinks=st.booleans(),
    softcap=st.sampled_from([None, None, 1.5]),
)
@settings(max_examples=60, deadline=None)
def test_one_call_gives_what_many_give(
    lengths: list[tuple[int, int]],
    shared: int,
    window: int | None,
    side_by_side: bool,
    paged: bool,
    decodes: bool,
    sinks: bool,
    softcap: float | None,
) -> None:
    block, width, kv_heads = 4, 8, 2
    noise = torch.Generator().manual_seed(1)
    pages = torch.arange(100) if side_by_side else torch.randperm(100, generator=noise)
    pieces, written, first, used = [], [], 0, 0
    for history, given_tokens in lengths:
        tokens = 1 if decodes else given_tokens
        count = -(-(history + tokens) // block)
        own = (pages[used : used + count, None] * block + torch.arange(block)).flatten()[: history + tokens]
        pieces.append(Piece(first, tokens, history, int(own[0]) if side_by_side else own))
        written.append(own[history:])
        first, used = first + tokens, used + count
    query = torch.randn(1, shared * kv_heads, first, width, generator=noise)
    key, value = (torch.randn(1, kv_heads, first, width, generator=noise) for _ in range(2))
    asked: dict[str, Any] = {"sliding_window": window, "softcap": softcap}
    asked["s_aux"] = torch.randn(shared * kv_heads, generator=noise) if sinks else None
    outputs = []
    for attention in (PIECE_BY_PIECE, Varlen(block if paged else None, kernel=kernel)):
        pool = KVPool(layers=1, tokens=400, heads=kv_heads, head_dim=width, dtype=torch.float32, device="cpu")
        old = torch.Generator().manual_seed(2)
        pool.keys[0] = torch.randn(400, kv_heads, width, generator=old)
        pool.values[0] = torch.randn(400, kv_heads, width, generator=old)
        batch = Pass(pool, pieces, torch.cat(written), attention, attention.prepare(pieces))
        outputs.append(attend(Layer(), query, key, value, None, 0.3, kv=batch, **asked)[0])
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-5)


def choice(kernel: Any, block_size: int) -> Attention:
    return choose(
        kv_heads=2, head_dim=16, block_size=block_size, dtype=torch.bfloat16, device=CPU, kernel=kernel
    )


def chosen(kernel: Any, block_size: int) -> str:
    return choice(kernel, block_size).name


@pytest.mark.parametrize("block_size", [1, 4, 16, 256])
def test_pages_are_preferred(block_size: int) -> None:
    assert chosen(kernel, block_size).endswith("paged")


def test_where_the_kernel_takes_larger_pages_only_requests_lie_side_by_side() -> None:
    assert chosen(pages_of_256, 16).endswith("side by side")
    assert chosen(pages_of_256, 256).endswith("paged")


def test_a_kernel_that_errs_is_not_used() -> None:
    def forgets_where(query: Tensor, keys: Tensor, values: Tensor, lines: Lines, scoring: Scoring) -> Tensor:
        """Takes the keys to follow each other, as a kernel might that knows no lengths beside the starts."""
        ends = lines.lengths.cumsum(0, dtype=torch.int32)
        starts = torch.cat([torch.zeros(1, dtype=torch.int32), ends])
        lines = Lines(lines.firsts, starts, lines.lengths, lines.most, lines.longest)
        return kernel(query, keys.flatten(0, -3), values.flatten(0, -3), lines, scoring)

    def says_nothing(query: Tensor, keys: Tensor, values: Tensor, lines: Lines, scoring: Scoring) -> Tensor:
        return torch.full_like(query, torch.nan)

    for wrong in (forgets_where, says_nothing):
        assert chosen(wrong, 16) == PIECE_BY_PIECE.name


def test_a_kernel_that_errs_in_sinks_alone_is_used_without() -> None:
    def loses_sinks(query: Tensor, keys: Tensor, values: Tensor, lines: Lines, scoring: Scoring) -> Tensor:
        return kernel(query, keys, values, lines, replace(scoring, sinks=None))

    pieces = [Piece(0, 4, 0, 0), Piece(4, 1, 0, 16)]
    query, rows, sinks = torch.randn(4, 5, 16), torch.randn(32, 2, 16), torch.randn(4)
    pool = KVPool(layers=1, tokens=0, heads=2, head_dim=16, dtype=torch.float32, device=CPU)
    whole = Pass(pool, pieces, torch.empty(0))
    scoring = Scoring(0.3, sinks=sinks)
    expected = PIECE_BY_PIECE(query, rows, rows, whole, scoring)
    for lacking in (kernel, loses_sinks):
        attention = choice(lacking, 16)
        assert isinstance(attention, Varlen)
        assert attention.takes_sinks == (lacking is kernel)
        batch = Pass(pool, pieces, torch.empty(0), attention, attention.prepare(pieces))
        found = attention(query, rows, rows, batch, scoring)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_what_goes_piece_by_piece_needs_the_pieces() -> None:
    attention = Varlen(kernel=kernel)
    pool = KVPool(layers=1, tokens=4, heads=2, head_dim=16, dtype=torch.float32, device=CPU)
    graph = Pass(pool, (), torch.empty(0), attention, attention.prepare([Piece(0, 1, 3, 0)]))
    with pytest.raises(RuntimeError, match="piece by piece"):
        attention(torch.randn(4, 1, 16), pool.keys[0], pool.values[0], graph, Scoring(0.3, softcap=2.0))


def test_a_kernel_for_other_formats_is_not_used() -> None:
    def half_only(query: Tensor, keys: Tensor, values: Tensor, lines: Lines, scoring: Scoring) -> Tensor:
        raise RuntimeError("FlashAttention only support fp16 and bf16 data type\nsomewhere in C++")

    assert chosen(half_only, 16) == PIECE_BY_PIECE.name


def test_the_cpu_goes_piece_by_piece() -> None:
    assert chosen(None, 16) == PIECE_BY_PIECE.name


TAKES_PAGES = "block_table" in str(torch.ops.aten._flash_attention_forward.default._schema)
PAGED = pytest.param(True, marks=pytest.mark.skipif(not TAKES_PAGES, reason="this torch takes no pages"))


@pytest.mark.parametrize("decodes", [False, True])
@pytest.mark.parametrize("paged", [False, PAGED])
def test_torch_has_the_kernel_that_is_called(paged: bool, decodes: bool) -> None:
    attention = Varlen(16 if paged else None)
    pieces = [Piece(0, 1, 20, 32)] if decodes else [Piece(0, 1, 20, 32), Piece(1, 7, 0, 64)]
    nowhere = torch.device("meta")  # shapes without values: whether the call is one that torch knows
    pool = KVPool(layers=1, tokens=96, heads=2, head_dim=16, dtype=torch.bfloat16, device=nowhere)
    query = torch.empty(4, sum(piece.tokens for piece in pieces), 16, dtype=torch.bfloat16, device=nowhere)
    batch = Pass(pool, pieces, torch.empty(0), attention, attention.prepare(pieces).to(nowhere))
    for window, sinks in ((None, None), (5, None), (5, torch.empty(4, device=nowhere))):
        out = attention(query, pool.keys[0], pool.values[0], batch, Scoring(0.3, window, sinks))
        assert out.dtype == torch.bfloat16
        assert out.shape == (query.shape[1], 4, 16)


@pytest.mark.skipif(tiny.DEVICE == "cpu", reason="needs a GPU")
@pytest.mark.parametrize("head_dim", [16, 64, 128])
def test_a_gpu_attends_in_one_call(head_dim: int) -> None:
    attention = choose(
        kv_heads=2, head_dim=head_dim, block_size=16, dtype=torch.bfloat16, device=torch.device(tiny.DEVICE)
    )
    assert isinstance(attention, Varlen)
