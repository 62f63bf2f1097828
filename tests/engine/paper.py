"""A model of paper: it checks that every token of every context lies where it should, and draws the next.

And a clock that goes as it is told. With both, an engine runs thousands of random worlds in seconds.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import torch

from triptych.engine.clock import TICK, Clock
from triptych.engine.messages import ImageInput
from triptych.engine.runner import Work
from triptych.engine.sequence import Sequence as EngineSequence

VOCABULARY = 50
IMAGE_TOKEN = 49
EOS = 48


class PaperClock(Clock):
    """Goes on by what `lasts` draws between two readings."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._ticks = 0

    def now(self) -> float:
        self._ticks += self._random.randrange(2, 100)
        return self._ticks * TICK

    def at(self, nanoseconds: int) -> float:
        return nanoseconds * TICK


@dataclass
class PaperRunner:
    """Stands in for `engine.runner.Runner`."""

    blocks: int
    block_size: int
    seed: int = 0
    max_context: int = 10_000

    def __post_init__(self) -> None:
        self.model = SimpleNamespace(
            max_context=self.max_context,
            vocab_size=VOCABULARY,
            eos_token_ids=(EOS,),
            image_token_id=IMAGE_TOKEN,
        )
        self.embeddings: dict[int, int] = {}
        self._random = random.Random(self.seed)
        self._places: list[tuple[int, int] | None] = [None] * (self.blocks * self.block_size)

    def encode(self, images: Iterable[ImageInput]) -> None:
        for image in images:
            assert image.content not in self.embeddings, "encoded twice"
            self.embeddings[image.content] = image.tokens

    def positions(self, sequence: EngineSequence) -> tuple[None, int]:
        return None, 0

    def move(self, moves: Mapping[int, int]) -> None:
        size, before = self.block_size, self._places.copy()
        for page, source in moves.items():
            self._places[page * size : (page + 1) * size] = before[source * size : (source + 1) * size]

    def logits(self, work: list[Work]) -> torch.Tensor:
        for sequence, history, tokens, _ in work:  # all are written before any is read
            for index in range(history, history + tokens):
                self._places[self._place(sequence, index)] = self._content(sequence, index)
        owned = [page for item in work for page in item.sequence.pages[item.sequence.shared :]]
        assert len(owned) == len(set(owned)), "a page has two owners"
        for sequence, history, tokens, _ in work:
            for index in range(history + tokens):
                held = self._places[self._place(sequence, index)]
                assert held == self._content(sequence, index), (
                    f"token {index} of {sequence.id} is not where it should be"
                )
            for image, (first, last) in zip(sequence.images, sequence.spans, strict=True):
                if first < history + tokens and last > history:
                    assert image.content in self.embeddings, "prefilled before its image was encoded"
        rows = sum(item.sampled for item in work)
        logits = torch.zeros(rows, VOCABULARY)
        for row in range(rows):
            token = EOS if self._random.random() < 0.02 else self._random.randrange(EOS)
            logits[row, token] = 1.0
        return logits

    def _place(self, sequence: EngineSequence, index: int) -> int:
        page, offset = divmod(index, self.block_size)
        return sequence.pages[page] * self.block_size + offset

    def _content(self, sequence: EngineSequence, index: int) -> tuple[int, int]:
        """What a place must hold: the token, and what precedes it."""
        seen: Sequence[int] = sequence.tokens[: index + 1]
        contents = tuple(
            (first, image.content)
            for image, (first, last) in zip(sequence.images, sequence.spans, strict=True)
            if first <= index
        )
        return index, hash((tuple(seen), contents))
