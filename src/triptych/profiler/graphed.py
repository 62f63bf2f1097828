"""Passes whose time is taken whole, cut into operators all the same.

A graph has no marks in it. The time of its launch is divided as the pieces of the same pass divide theirs
where it is launched kernel by kernel. For that the device is held up at the beginning, until all kernels wait
in line: no piece then waits for the host, as none does in a graph. A pass that is launched kernel by kernel
anyway, but whose marks would take the host's time, is divided as the same pass with all marks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from time import perf_counter

import torch

from triptych.engine.graphs import Capture
from triptych.engine.runner import Runner, Work
from triptych.profiler.marks import GRAPH, INPUT, Marks
from triptych.profiler.statistics import Piece

_CYCLES = 2e9
"""Of a device in a second, at the most: a slower one is held up for longer."""
_MARGIN = 2.0
"""By which the device is held up longer than the host needs to launch a pass without marks."""


def hold_device(seconds: float) -> None:
    """Keeps the CUDA device at work."""
    torch.cuda._sleep(int(_CYCLES * seconds))


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
        hold: keeps the device at work for so many seconds.
    """

    def __init__(self, runner: Runner, marks: Marks, hold: Callable[[float], None]) -> None:
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
        with self.plain():
            began = perf_counter()
            self._runner.logits(work)  # loads the kernels, and comes back when all are launched
            self._marks.at_input = partial(self._hold, _MARGIN * (perf_counter() - began))
            try:
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
    """A pass cut into operators.

    Args:
        pieces: of the pass: its input, and the rest.
        apart: of the same batch with all marks.
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
