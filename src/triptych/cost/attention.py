"""Measured attention: a grid of times, looked up between its knots.

Time is taken to be linear between knots, in KV as in the number of sequences; so the decode iterations that
repeat with one token more of KV each form an arithmetic progression as far as the next knot, as they do under
the roofline.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from triptych.cost.linear import UNBOUNDED, TextAttention
from triptych.cost.loads import Floats
from triptych.cost.source import INTERPOLATED, MEASURED, ROOFLINE
from triptych.cost.together import Together
from triptych.policy.batch import Batch, Chunk

_KEPT = 1 << 16
"""Sizes of chunks that are remembered at a time: few megabytes."""


@dataclass(frozen=True)
class Grid:
    """Seconds of one layer's attention over a product of sizes.

    The dimensions are a prompt's query tokens and history (prefill), sequences and KV tokens of each on
    average (decode), or all four (a launch that does both).
    """

    knots: tuple[Floats, ...]
    """Of each dimension, rising."""
    seconds: Floats
    """Shape (len(knots[0]), len(knots[1]), ...)."""
    low: Floats
    """Of each dimension, the least size that was measured."""
    high: Floats
    """And the largest: beyond, the roofline's slope decides."""

    def at(self, sizes: Floats) -> Floats:
        """Seconds at these sizes, shape (rows, dimensions); beyond the last knot the last line goes on."""
        total = np.zeros(len(sizes))
        places, shares = [], []
        for knots, column in zip(self.knots, sizes.T, strict=True):
            if len(knots) == 1:
                places.append(np.zeros(len(column), dtype=np.int64))
                shares.append(np.zeros(len(column)))
                continue
            place = np.clip(np.searchsorted(knots, column, side="right") - 1, 0, len(knots) - 2)
            width = knots[place + 1] - knots[place]
            places.append(place)
            shares.append(np.maximum((column - knots[place]) / width, 0.0))
        for corner in range(1 << len(self.knots)):
            weight = np.ones(len(sizes))
            index = []
            for axis, (place, share) in enumerate(zip(places, shares, strict=True)):
                upper = corner >> axis & 1
                weight = weight * (share if upper else 1 - share)
                index.append(np.minimum(place + upper, len(self.knots[axis]) - 1))
            total += weight * self.seconds[tuple(index)]
        return total

    def source(self, sizes: Floats) -> NDArray[np.int64]:
        """MEASURED, INTERPOLATED or ROOFLINE for each of these sizes, shape (rows,)."""
        inside = ((sizes >= self.low) & (sizes <= self.high)).all(axis=1)
        exact = np.ones(len(sizes), dtype=np.bool_)
        for knots, column in zip(self.knots, sizes.T, strict=True):
            exact &= np.isin(column, knots)
        return np.where(inside, np.where(exact, MEASURED, INTERPOLATED), ROOFLINE)


class AttentionTable(TextAttention):
    """Seconds of the attention of all layers.

    Args:
        prefill: query tokens x history of one prompt.
        decode: sequences x KV tokens of each on average.
        joint: query tokens x history x sequences x KV, of prompts and decodes in one launch; None: they are
            launched one after the other.
        unequal: how much of the way from the mean to the longest context a batch of unequal contexts takes.
        layers: that have this attention; of a fractional number the time is multiplied just so.
        together: what several prompt chunks take in one launch; None: each is a launch of its own.
    """

    def __init__(
        self,
        prefill: Grid,
        decode: Grid,
        joint: Grid | None,
        *,
        unequal: float,
        layers: float,
        together: Together | None,
    ) -> None:
        self.grids = (prefill, decode, joint)
        self._unequal = unequal
        self._together = together
        self._floor = self._per_query = self._per_pair = 0.0
        if together is not None:
            self._floor, self._per_query = together.floor * layers, together.per_query * layers
            self._per_pair = together.per_pair * layers
        self.layers = layers
        self._queries: list[float] = prefill.knots[0].tolist()
        self._histories: list[float] = prefill.knots[1].tolist()
        self._prefill: list[list[float]] = (prefill.seconds * layers).tolist()
        self._sequences: list[float] = decode.knots[0].tolist()
        self._contexts: list[float] = decode.knots[1].tolist()
        self._decode: list[list[float]] = (decode.seconds * layers).tolist()
        self._chunks: dict[tuple[int, int], tuple[float, float]] = {}
        """Query tokens and history -> what `_chunk` says of them."""
        self._rows: dict[int, list[float]] = {}
        """Number of sequences -> seconds at every knot of KV."""
        self._knots: list[list[float]] = []
        self._strides: list[int] = []
        self._flat: list[float] = []
        if joint is not None:
            self._knots = [knots.tolist() for knots in joint.knots]
            shape = joint.seconds.shape
            self._strides = [int(np.prod(shape[axis + 1 :])) for axis in range(4)]
            self._flat = (joint.seconds * layers).reshape(-1).tolist()

    def run(self, batch: Batch) -> tuple[float, float, int]:
        """Seconds of a batch's first iteration, growth an iteration, iterations for which that holds."""
        if not batch.chunks:
            return self._decode_line(batch.decodes, batch.decode_kv, batch.longest_kv)
        chunk, decodes, more = batch.chunks[0], batch.decodes, 0.0
        if len(batch.chunks) > 1:
            chunk, more = self._longest(batch.chunks)
        queries, history = float(chunk.tokens), float(chunk.history)
        if not decodes or not self._flat:
            apart, _, _ = self._decode_line(decodes, batch.decode_kv, batch.longest_kv)
            return self._prefill_seconds(queries, history) + more + apart, 0.0, 1
        mean = batch.decode_kv / decodes
        seconds = self._joint_seconds(queries, history, decodes, mean)
        if self._unequal and batch.longest_kv > mean:
            longest = self._joint_seconds(queries, history, decodes, float(batch.longest_kv))
            seconds += self._unequal * (longest - seconds)
        return seconds + more, 0.0, 1

    def _longest(self, chunks: Sequence[Chunk]) -> tuple[Chunk, float]:
        """The chunk that takes longest alone, and the seconds that the others add to it (`Together`)."""
        longest, most, apart, work = chunks[0], 0.0, 0.0, 0.0
        for chunk in chunks:
            alone, filling = self._chunk(chunk.tokens, chunk.history)
            if alone > most:
                longest, most = chunk, alone
            apart += alone
            work += filling
        if self._together is None:
            return longest, apart - most
        return longest, max(0.0, min(most, self._floor) + work - most)

    def _chunk(self, tokens: int, history: int) -> tuple[float, float]:
        """Seconds of a chunk alone, and of its work on a device that others help to fill."""
        known = self._chunks.get((tokens, history))
        if known is None:
            alone = self._prefill_seconds(float(tokens), float(history))
            filled = tokens * (self._per_query + self._per_pair * (history + 0.5 * tokens))
            if len(self._chunks) >= _KEPT:
                self._chunks.clear()
            known = self._chunks[tokens, history] = (alone, max(0.0, min(alone - self._floor, filled)))
        return known

    def _decode_line(self, decodes: int, total: int, longest: int) -> tuple[float, float, int]:
        if not decodes:
            return 0.0, 0.0, UNBOUNDED
        row = self._rows.get(decodes)
        if row is None:
            row = self._rows[decodes] = self._row(float(decodes))
        mean = total / decodes
        seconds, growth, valid = _line(self._contexts, row, mean)
        if self._unequal and longest > mean:
            far, slope, holds = _line(self._contexts, row, float(longest))
            seconds += self._unequal * (far - seconds)
            growth += self._unequal * (slope - growth)
            valid = min(valid, holds)
        return seconds, growth, valid

    def _row(self, decodes: float) -> list[float]:
        place = _place(self._sequences, decodes)
        low, high = self._decode[place], self._decode[min(place + 1, len(self._decode) - 1)]
        share = _share(self._sequences, place, decodes)
        return [first + share * (second - first) for first, second in zip(low, high, strict=True)]

    def _prefill_seconds(self, queries: float, history: float) -> float:
        place = _place(self._queries, queries)
        share = _share(self._queries, place, queries)
        low, _, _ = _line(self._histories, self._prefill[place], history)
        if not share:
            return low
        high, _, _ = _line(self._histories, self._prefill[place + 1], history)
        return low + share * (high - low)

    def _joint_seconds(self, queries: float, history: float, decodes: float, mean: float) -> float:
        """Between the sixteen knots around."""
        flat, strides, base = self._flat, self._strides, 0
        corners: list[tuple[int, float]] = [(0, 1.0)]
        for axis, size in enumerate((queries, history, decodes, mean)):
            knots, stride = self._knots[axis], strides[axis]
            place = _place(knots, size)
            share = _share(knots, place, size)
            base += place * stride
            if share:
                corners = [
                    part
                    for offset, weight in corners
                    for part in ((offset, weight * (1.0 - share)), (offset + stride, weight * share))
                ]
        total = 0.0
        for offset, weight in corners:
            total += weight * flat[base + offset]
        return total

    def of_rows(
        self, tokens: Floats, crossed: Floats, chunks: Floats, decodes: Floats, mean: Floats
    ) -> tuple[Floats, NDArray[np.int64]]:
        """Seconds of many batches with contexts of equal length, and where each comes from, shape (rows,).

        Args:
            tokens: of prompts, in as many chunks of equal length as `chunks` says.
            crossed: query-key pairs of them, less half a pair for each token.
            chunks: at least 1.
            decodes: sequences that decode.
            mean: tokens of KV of each of those.
        """
        prefill, decode, joint = self.grids
        queries = tokens / chunks
        history = np.maximum(crossed / chunks - queries**2 / 2, 0.0) / np.maximum(queries, 1.0)
        source = np.full(len(queries), MEASURED)
        prompts, generates = queries > 0, decodes > 0
        mixed = prompts & generates if joint is not None else np.zeros_like(prompts)
        seconds = np.zeros(len(queries))
        for grid, rows, sizes in (
            (joint, mixed, (queries, history, decodes, mean)),
            (prefill, prompts & ~mixed, (queries, history)),
            (decode, generates & ~mixed, (decodes, mean)),
        ):
            if grid is not None and rows.any():
                of_rows = np.stack([size[rows] for size in sizes], axis=1)
                seconds[rows] += grid.at(of_rows)
                source[rows] = np.maximum(source[rows], grid.source(of_rows))
        several = prompts & (chunks > 1)
        if several.any():
            seconds[several] += self._added(chunks[several], queries[several], history[several])
            if self._together is not None:
                source[several] = np.maximum(source[several], INTERPOLATED)
        return seconds * self.layers, source

    def _added(self, chunks: Floats, queries: Floats, history: Floats) -> Floats:
        """Seconds that all chunks but one add to it, of one layer, shape (rows,)."""
        alone = self.grids[0].at(np.stack([queries, history], axis=1))
        if self._together is None:
            return (chunks - 1) * alone
        return self._together.equal(alone, chunks, queries, history) - alone


def _place(knots: Sequence[float], size: float) -> int:
    """The knot at or before a size; never the last of several."""
    return max(0, min(bisect_right(knots, size) - 1, len(knots) - 2))


def _share(knots: Sequence[float], place: int, size: float) -> float:
    """How far a size is on its way to the next knot."""
    if len(knots) == 1 or size <= knots[place]:
        return 0.0
    return (size - knots[place]) / (knots[place + 1] - knots[place])


def _line(knots: Sequence[float], values: Sequence[float], size: float) -> tuple[float, float, int]:
    """The value at a size, its slope, and for how many steps of one the line goes on."""
    place = _place(knots, size)
    if len(knots) == 1:
        return values[0], 0.0, UNBOUNDED
    begin, end = knots[place], knots[place + 1]
    if size < begin:
        return values[place], 0.0, int(begin - size) + 1
    slope = (values[place + 1] - values[place]) / (end - begin)
    valid = int(end - size) + 1 if size <= end else UNBOUNDED
    return values[place] + slope * (size - begin), slope, valid
