"""Which system prompt requests begin with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.spec.workload import Prefixes
from triptych.workload.streams import stream


class PrefixColumns(NamedTuple):
    """The prefix columns of `Requests`: an id is the number of the system prompt."""

    prefix_offsets: NDArray[np.int64]
    prefix_ids: NDArray[np.int64]
    prefix_block_tokens: int


def draw_prefixes(spec: Prefixes, n: int, seed: int) -> PrefixColumns:
    """One id, which covers the whole system prompt, for each of n requests that begins with one."""
    groups = stream(seed, "prefix groups").integers(0, spec.groups, n)
    chosen = stream(seed, "prefix shares").random(n) < spec.share
    return PrefixColumns(
        np.concatenate(([0], np.cumsum(chosen, dtype=np.int64))), groups[chosen], spec.tokens
    )
