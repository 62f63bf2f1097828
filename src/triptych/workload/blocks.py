"""Hashes of the KV blocks of a prompt, from ids that name its prefixes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Multiples of 2^64 / golden ratio are spread so evenly over 64 bits that those of two different blocks
# below a million lie 2^42 apart or more: ids below 2^42 and blocks below 2^20 never collide.
_STRIDE = np.uint64(0x9E3779B97F4A7C15)


def block_hashes(
    ids: NDArray[np.int64], id_tokens: int, block_size: int, prompt_tokens: int
) -> tuple[int, ...]:
    """The hash of each full block of `block_size` tokens that ids cover.

    Id j stands for the whole prompt up to token `(j + 1) * id_tokens`. Block b ends at token
    `(b + 1) * block_size`, so it is named by b and the first id that reaches that far: two prompts have
    an equal hash at b only if they are equal up to its end. Two that part within the stretch of an id
    share no block of that stretch, because its id differs.
    """
    blocks = min(len(ids) * id_tokens, prompt_tokens) // block_size
    if blocks == 0:
        return ()
    if len(ids) == 1:
        return _of_one_id(int(ids[0]), blocks)
    ends = np.arange(1, blocks + 1) * block_size
    return _mix(ids[(ends - 1) // id_tokens])


@lru_cache(maxsize=4096)
def _of_one_id(prefix: int, blocks: int) -> tuple[int, ...]:
    """Requests of one system prompt have one tuple between them, not a copy each."""
    return _mix(np.full(blocks, prefix, dtype=np.int64))


def _mix(ids: NDArray[np.int64]) -> tuple[int, ...]:
    """Hash of (id, position); the finaliser is splitmix64's (Steele, Lea and Flood, 2014)."""
    x = ids.astype(np.uint64) + np.arange(len(ids), dtype=np.uint64) * _STRIDE
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return tuple((x ^ (x >> np.uint64(31))).tolist())
