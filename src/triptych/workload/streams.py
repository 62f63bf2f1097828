"""Random numbers: one stream for each aspect of a workload."""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, aspect: str) -> np.random.Generator:
    """The random stream of one aspect: it depends on the seed and its name and on nothing else."""
    key = (zlib.crc32(aspect.encode()),)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))
