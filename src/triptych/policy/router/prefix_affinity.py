"""Prefix affinity: a request goes where it costs least, and a prefix that is cached there costs nothing.

Source: the ideas of Preble (Srivatsa et al., ICLR 2025), whose scheduler weighs the work that a shared prefix
saves against the work that waits; of SGLang's cache-aware router, which keeps an approximate picture of each
instance's cache from what it has sent there, and yields where loads are out of balance; and of NVIDIA
Dynamo's KV router, whose cost is one sum of overlap and load.

The cost of an instance is its outstanding tokens and those tokens of the new prompt that it has not seen; the
least wins, of equals the first. Outstanding are whole prompts, as `least-tokens` counts them, because a
cached prefix takes part in batches and fills memory all the same. So a prefix draws a request to an instance
that has more to do by less than the prefix saves, and where nothing is shared this is least-tokens. So it is
in the decode phase, to which KV is sent whole.

Example:
    >>> from triptych.policy import Request
    >>> from triptych.policy.router import PrefixAffinityRouter
    >>> router = PrefixAffinityRouter(2, block_size=16)
    >>> def ask(prompt_tokens, *block_hashes):
    ...     return router.route(Request(0, prompt_tokens, output_tokens=10, block_hashes=block_hashes))
    >>> ask(40, 1, 2)
    0
    >>> ask(60, 1, 2, 3)  # 40 wait on 0, and 60 - 32 are new to it: 68; on 1 all 60 are new
    1
    >>> ask(60, 1, 2, 3)  # 0: 40 + 60 - 32 = 68; 1: 60 + 60 - 48 = 72
    0
    >>> ask(60, 1, 2, 3)  # 0: 100 + 60 - 48 = 112; 1: 72
    1
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice
from typing import ClassVar

from triptych.policy.request import DECODE, Request
from triptych.policy.router.least_tokens import LeastTokensRouter


class PrefixAffinityRouter(LeastTokensRouter):
    """The least outstanding and uncached tokens, by a picture of each instance's prefix cache."""

    remembered: ClassVar[int] = 65_536
    """Blocks in the picture of an instance's cache, least recently used first to go: with 16 tokens each, a
    million tokens, or 128 GiB of Llama-3-8B's KV."""

    def __init__(self, targets: int, *, seed: int = 0, block_size: int = 16) -> None:
        super().__init__(targets, seed=seed, block_size=block_size)
        self._seen: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(targets)]
        """By instance, hashes of the blocks that it was sent, least recently used first."""
        self._beginnings: dict[int, set[int]] = {}
        """Hash of a prompt's first block -> instances that have seen it."""

    def route(self, request: Request) -> int:
        target = self.least()
        if request.block_hashes and request.phase is not DECODE:
            target = self._cheapest(request.block_hashes, target)
            self._remember(request.block_hashes, target)
        return self.assign(request, target)

    def _cheapest(self, hashes: Sequence[int], least: int) -> int:
        """The instance of least cost: `least`, which has the least load, or one that knows the beginning.

        The prompt's own tokens count everywhere alike, so what a cost is less them is compared.
        """
        best = (self.loads[least], least)
        most = len(hashes) * self.block_size
        for target in self._beginnings.get(hashes[0], ()):
            load = self.loads[target]
            if load - most <= best[0]:
                best = min(best, (load - self._depth(hashes, target) * self.block_size, target))
        return best[1]

    def _depth(self, hashes: Sequence[int], target: int) -> int:
        """How many leading blocks the instance has seen. Tails are forgotten before heads: it is bisected."""
        seen = self._seen[target]
        low, high = 0, len(hashes)
        while low < high:
            middle = (low + high) // 2
            if hashes[middle] in seen:
                low = middle + 1
            else:
                high = middle
        return low

    def _remember(self, hashes: Sequence[int], target: int) -> None:
        seen = self._seen[target]
        for block_hash in reversed(hashes):
            if block_hash in seen:
                seen.move_to_end(block_hash)
            else:
                seen[block_hash] = None
        self._beginnings.setdefault(hashes[0], set()).add(target)
        excess = len(seen) - self.remembered
        if excess <= 0:
            return
        forgotten = list(islice(seen, excess))
        for block_hash in forgotten:
            del seen[block_hash]
        for block_hash in list(filter(self._beginnings.__contains__, forgotten)):
            knowing = self._beginnings[block_hash]
            knowing.discard(target)
            if not knowing:
                del self._beginnings[block_hash]
