"""Prefix affinity: requests that share a prefix go where its KV was computed last, unless that is overloaded.

Source: the idea of SGLang's cache-aware router: an approximate picture of each instance's cache, kept by
the router from what it has sent, and a balance threshold that overrides it. Here the picture is a bounded
map from block hash to the instance that saw it last.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar

from triptych.policy.request import Request
from triptych.policy.router.least_requests import LeastRequestsRouter


class PrefixAffinityRouter(LeastRequestsRouter):
    """The instance that has seen the longest prefix; the least loaded where none has, or it is too busy."""

    share: ClassVar[float] = 0.5
    """Of a prompt's blocks: affinity counts from here on. Less, such as a system prompt that all requests
    begin with, is soon computed anywhere, and would send everybody to one instance."""
    imbalance: ClassVar[float] = 1.5
    """An instance may have this many times the mean load, and `slack` more, before affinity yields."""
    slack: ClassVar[int] = 4
    remembered: ClassVar[int] = 1_000_000
    """Block hashes kept, least recently used first to go."""

    def __init__(self, targets: int, *, seed: int = 0) -> None:
        super().__init__(targets, seed=seed)
        self._seen: OrderedDict[int, int] = OrderedDict()
        self._outstanding = 0

    def route(self, request: Request) -> int:
        favourite = self._favourite(request)
        bound = self.imbalance * self._outstanding / self.targets + self.slack
        if favourite is not None and self.loads[favourite] <= bound:
            target = self.assign(request, favourite)
        else:
            target = super().route(request)
        self._outstanding += 1
        self._remember(request, target)
        return target

    def done(self, request: Request, target: int) -> None:
        super().done(request, target)
        self._outstanding -= 1

    def _favourite(self, request: Request) -> int | None:
        """Where the deepest known block was sent, if enough is known; hashes are chained: it is bisected."""
        hashes = request.block_hashes
        low, high = 0, len(hashes)
        while low < high:
            middle = (low + high) // 2
            if hashes[middle] in self._seen:
                low = middle + 1
            else:
                high = middle
        return self._seen[hashes[low - 1]] if low and low >= self.share * len(hashes) else None

    def _remember(self, request: Request, target: int) -> None:
        for block_hash in reversed(request.block_hashes):
            self._seen[block_hash] = target
            self._seen.move_to_end(block_hash)
        while len(self._seen) > self.remembered:
            self._seen.popitem(last=False)
