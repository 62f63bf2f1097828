"""Which units each prompt is made of: drawn by seed, equal where prefixes are equal."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from triptych.workload import Requests

Ints = NDArray[np.int64]

_PREFIX, _OWN = 0, 1
_CACHED_BLOCKS = 256


class Prompts:
    """Draws prompts.

    Args:
        requests: whose prompts they are.
        seed: of the draw. Prompts of different seeds share nothing.
        units: different units.
    """

    def __init__(self, requests: Requests, seed: int, units: int) -> None:
        self._requests = requests
        self._seed = seed
        self._units = units
        self._block = lru_cache(_CACHED_BLOCKS)(self._draw_block)

    def parts(self, index: int, length: int) -> tuple[Ints, Ints]:
        """The units of a prompt: those that its prefix ids cover, and the rest; `length` together."""
        requests = self._requests
        begin, end = requests.prefix_offsets[index], requests.prefix_offsets[index + 1]
        size = requests.prefix_block_tokens
        # Blocks beyond the length would be drawn for nothing.
        ids = requests.prefix_ids[begin:end][: -(-length // size) if size else 0].tolist()
        blocks = [self._block(number, position) for position, number in enumerate(ids)]
        prefix = np.concatenate([np.empty(0, np.int64), *blocks])[:length]
        return prefix, self._draw(_OWN, index, 0, length - len(prefix))

    def _draw_block(self, number: int, position: int) -> Ints:
        return self._draw(_PREFIX, number % 2**64, position, self._requests.prefix_block_tokens)

    def _draw(self, kind: int, name: int, position: int, length: int) -> Ints:
        random = np.random.default_rng([self._seed, kind, name, position])
        return random.integers(0, self._units, length)
