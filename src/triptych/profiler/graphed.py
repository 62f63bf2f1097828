"""Passes that the engine launches as one captured graph, cut into operators all the same.

A graph has no marks in it. The time of its launch is divided as the pieces of the same pass divide theirs
where it is launched kernel by kernel. For that the device is held up at the beginning, until all kernels wait
in line: no piece then waits for the host, as none does in a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from triptych.engine.graphs import Capture
from triptych.engine.runner import Runner, Work
from triptych.profiler.marks import INPUT, Marks
from triptych.profiler.statistics import Piece

GRAPH = "graph"
"""The mark of a launch."""
_HELD_CYCLES = 40_000_000
"""Of the device: 20 ms at 2 GHz, longer than a host needs to launch the kernels of a pass."""


def hold_device() -> None:
    """Keeps the CUDA device at work."""
    torch.cuda._sleep(_HELD_CYCLES)


def marked(capture: Capture, marks: Marks) -> Capture:
    """A capture whose launches have a mark before them and one behind."""

    def marked_capture(run: Callable[[], None]) -> Callable[[], object]:
        launch = capture(run)

        def marked_launch() -> None:
            marks.mark(INPUT)
            with _unmarked(marks):
                launch()
            marks.mark(GRAPH)

        return marked_launch

    return marked_capture


class Passes:
    """Passes of a runner, in pieces.

    Args:
        runner: what runs.
        marks: in its model.
        hold: keeps the device at work for a while.
    """

    def __init__(self, runner: Runner, marks: Marks, hold: Callable[[], None]) -> None:
        self._runner = runner
        self._marks = marks
        self._hold = hold

    def pieces(self, work: list[Work]) -> list[Piece]:
        """Of a pass as the engine runs it; a graph is one piece."""
        self._marks.begin()
        self._runner.logits(work)
        return self._marks.end("head")

    def apart(self, work: list[Work]) -> list[Piece]:
        """Of a pass whose kernels are launched one by one and wait for nothing but each other."""
        self._marks.at_input = self._hold
        try:
            with self.plain():
                return self.pieces(work)
        finally:
            self._marks.at_input = None

    @contextmanager
    def plain(self) -> Iterator[None]:
        """Without graphs."""
        graphs, self._runner.graphs = self._runner.graphs, None
        try:
            yield
        finally:
            self._runner.graphs = graphs


def is_graph(pieces: Sequence[Piece]) -> bool:
    """Whether these are the pieces of a launch."""
    return any(piece.operator == GRAPH for piece in pieces)


def divided(pieces: Sequence[Piece], apart: Sequence[Piece]) -> list[Piece]:
    """A launch cut into operators.

    Args:
        pieces: of the launch.
        apart: of the same pass, kernel by kernel.
    """
    inputs = [piece for piece in pieces if piece.operator == INPUT]
    parts = [piece for piece in apart if piece.operator != INPUT]
    whole = sum(piece.seconds for piece in pieces) - sum(piece.seconds for piece in inputs)
    share = whole / sum(piece.seconds for piece in parts)
    return [*inputs, *(Piece(piece.operator, piece.seconds * share) for piece in parts)]


@contextmanager
def _unmarked(marks: Marks) -> Iterator[None]:
    before, marks.on = marks.on, False
    try:
        yield
    finally:
        marks.on = before
