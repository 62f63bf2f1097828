"""Decodes by CUDA graphs: a pass whose pieces are single tokens is launched as one piece of work.

A decode of a small batch keeps a GPU busy for less time than the host needs to launch its kernels one by
one. So at the start the pass is captured for batches of 1, 2, 4, 8, ... sequences; afterwards a batch is
copied into the buffers that the captured kernels read, filled up to the next size, and all is launched at
once. Rows that stand empty write their KV to a page that nobody has, and nobody reads what comes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from triptych.engine.attention import KVPool, Pass
from triptych.engine.varlen import Lines, Varlen

Capture = Callable[[Callable[[], None]], Callable[[], object]]
"""Makes of work on the device something that does it again, on whatever the same memory then holds."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the language model is given."""

    ids: Tensor
    """Shape (1, tokens)."""
    positions: Tensor
    """Shape (1, tokens); of models whose rotary positions have time, height and width (3, 1, tokens)."""
    kv: Pass

    def to(self, device: torch.device) -> Inputs:
        """On another device."""
        if device.type == "cpu":
            return self
        prepared = None if self.kv.prepared is None else self.kv.prepared.to(device)
        kv = replace(self.kv, places=self.kv.places.to(device), prepared=prepared)
        return Inputs(self.ids.to(device), self.positions.to(device), kv)


class Runs(Protocol):
    """A batch to its logits, shape (tokens, vocabulary)."""

    def __call__(self, inputs: Inputs) -> Tensor: ...


def sizes(most: int) -> list[int]:
    """Batches that are captured: powers of two, and the largest that comes."""
    return [1 << power for power in range(most.bit_length()) if 1 << power < most] + [most]


class DecodeGraphs:
    """Captured passes over batches of single tokens.

    Their memory is bounded: all share one pool, and the largest is captured first, so that the others fit
    into what it took. Beside it there are logits for the largest batch, in float32.

    Args:
        run: the model.
        pool: where KV is kept; its last page is nobody's.
        attention: of all passes.
        most: sequences of the largest batch.
        longest: tokens of the longest context.
        page: places of a page.
        axes: rotary positions of a token: 1, or 3.
        capture: `CUDACapture` in use.
    """

    def __init__(
        self,
        run: Runs,
        *,
        pool: KVPool,
        attention: Varlen,
        most: int,
        longest: int,
        page: int,
        axes: int,
        capture: Capture,
    ) -> None:
        device = pool.keys.device
        self.sizes: Sequence[int] = sizes(most)
        self._run = run
        self._pool = pool
        self._attention = attention
        self._longest = longest
        self._spare = pool.keys.shape[1] - page
        """First place of the page that nobody has."""
        self._wide = torch.zeros(2 + axes, most, dtype=torch.long, device=device)
        """Tokens, places and positions."""
        self._narrow = torch.zeros(2, most + 1, dtype=torch.int32, device=device)
        """Starts and lengths, see `Lines`."""
        self._wide.copy_(self._empty_wide(most))
        self._narrow.copy_(self._empty_narrow(most))
        self._firsts = torch.arange(most + 1, dtype=torch.int32, device=device)
        self._table: Tensor | None = None
        if attention.block_size is not None:
            blocks = -(-longest // attention.block_size)
            self._table = torch.full((most, blocks), self._spare // page, dtype=torch.int32, device=device)
        self._logits = run(self._inputs(most)).float()
        self._launch = {size: capture(partial(self._compute, size)) for size in reversed(self.sizes)}

    def takes(self, inputs: Inputs) -> bool:
        """Whether a batch can be run so."""
        lines = inputs.kv.prepared
        return lines.most == 1 and lines.gathered is None and inputs.ids.shape[1] <= self.sizes[-1]

    def run(self, inputs: Inputs) -> Tensor:
        """Runs a batch that these take.

        Args:
            inputs: on the CPU.

        Returns:
            float32, shape (tokens, vocabulary); good until the next call.
        """
        count = inputs.ids.shape[1]
        size = next(size for size in self.sizes if size >= count)
        lines: Lines = inputs.kv.prepared
        wide, narrow = self._empty_wide(size), self._empty_narrow(size)
        wide[0, :count] = inputs.ids[0]
        wide[1, :count] = inputs.kv.places
        wide[2:, :count] = inputs.positions.reshape(-1, count)
        narrow[0, :count] = lines.starts[:count]
        narrow[1, :count] = lines.lengths
        self._wide[:, :size].copy_(wide)
        self._narrow[:, : size + 1].copy_(narrow)
        if self._table is not None and lines.table is not None:
            self._table[:count, : lines.table.shape[1]].copy_(lines.table)
        self._launch[size]()
        return self._logits[:count]

    def _compute(self, size: int) -> None:
        self._logits[:size].copy_(self._run(self._inputs(size)))

    def _inputs(self, size: int) -> Inputs:
        """The buffers' part that a batch of a size has."""
        wide = self._wide[:, :size]
        axes = wide.shape[0] - 2
        lines = Lines(
            self._firsts[: size + 1],
            self._narrow[0, : size + 1],
            self._narrow[1, :size],
            most=1,
            longest=self._longest,
            table=None if self._table is None else self._table[:size],
        )
        batch = Pass(self._pool, (), wide[1], self._attention, lines)
        return Inputs(wide[:1], wide[2:] if axes == 1 else wide[2:].unsqueeze(1), batch)

    def _empty_wide(self, size: int) -> Tensor:
        """Rows of token 0 that write to the spare page."""
        wide = torch.zeros(self._wide.shape[0], size, dtype=torch.long)
        wide[1] = self._spare
        return wide

    def _empty_narrow(self, size: int) -> Tensor:
        """Rows that read what they have written."""
        narrow = torch.ones(2, size + 1, dtype=torch.int32)
        narrow[0] = self._spare
        return narrow


class CUDACapture:
    """Captures CUDA graphs that share one pool of memory."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()
        self._memory = torch.cuda.graph_pool_handle()

    def __call__(self, run: Callable[[], None]) -> Callable[[], object]:
        """Captures.

        Raises:
            RuntimeError: the work waits for the device, or cannot be captured for another reason.
        """
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            run()  # libraries set themselves up in the first run
            with _no_waiting():
                run()
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory, stream=self._stream):
            run()
        return graph.replay


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Makes an error of what waits for the device: sizes that depend on data, values that the host reads."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
