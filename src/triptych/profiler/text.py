"""What the front end does for every token that it sends on: making text of it, beside the engine."""

from __future__ import annotations

import random
from collections.abc import Sequence
from time import perf_counter

import numpy as np

from triptych import catalog
from triptych.engine.server.text import Detokenizer
from triptych.engine.tokenizer import load_tokenizer
from triptych.profiler.statistics import Row, row, undisturbed

_STREAMS = (1, 16, 256)
_BEFORE = 8
"""Tokens of every answer before the first that is measured."""


def measure_text(model: str, repeats: int) -> list[Row]:
    """Rows `detokenising`: seconds to make text of one more token of each of `units` answers.

    Args:
        model: of the catalogue, or a `config.json`; its made tokenizer has as many tokens as its own.
        repeats: tokens of each answer that are measured.
    """
    name = model.removeprefix(catalog.RANDOM)
    tokenizer = load_tokenizer(f"{catalog.RANDOM}{name}")
    chance = random.Random(0)
    backend, vocabulary = tokenizer.backend_tokenizer, len(tokenizer)

    def decode(tokens: Sequence[int]) -> str:
        return str(backend.decode(tokens, skip_special_tokens=True))

    rows = []
    for count in _STREAMS:
        streams = [Detokenizer(decode) for _ in range(count)]
        taken = []
        for _ in range(_BEFORE + repeats):
            tokens = [chance.randrange(vocabulary) for _ in streams]
            begin = perf_counter()
            for stream, token in zip(streams, tokens, strict=True):
                stream.add(token)
            taken.append(perf_counter() - begin)
        seconds = np.array(taken[_BEFORE:])
        sizes = {"model": catalog.model(name).name, "units": count}
        rows.append(row("detokenising", seconds[undisturbed(seconds)], sizes))
    return rows
