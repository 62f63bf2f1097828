"""Paged KV memory: blocks handed out by count, shared by chained block hash, given back to an LRU.

Blocks are accounted for, not numbered: a request holds `request.blocks` of them, the first
`request.shared_blocks` of which stand in the prefix cache under their hash. An engine that needs page
numbers binds them to a request's holding when it reads it, and learns from `evicted` which hashes no longer
name a page; a simulator never does.

Source of the sharing rules: vLLM V1 (`KVCacheManager`): full prompt blocks are entered when the batch that
computes them is formed, a block that nobody holds stays findable until its room is needed, least recently
used first, and the last prompt token is always computed so that there is something to sample from.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice

from triptych.policy.request import Request


class KVCache:
    """The KV blocks of one instance.

    Args:
        blocks: how many there are.
        block_size: tokens in one block.
        prefix_cache: whether full prompt blocks are shared by their hash.
    """

    __slots__ = ("_holders", "_idle", "block_size", "blocks", "evicted", "free", "prefix_cache")

    def __init__(self, blocks: int, block_size: int = 16, *, prefix_cache: bool = False) -> None:
        self.blocks = blocks
        self.block_size = block_size
        self.prefix_cache = prefix_cache
        self.free = blocks
        """Blocks that nobody holds; idle cached ones count, since they are evicted on demand."""
        self.evicted: list[int] | None = None
        """Hashes dropped from the cache, for a driver that has put a list here and clears it."""
        self._holders: dict[int, int] = {}
        """Hash -> requests that hold the block (0: idle)."""
        self._idle: OrderedDict[int, None] = OrderedDict()
        """Hashes of cached blocks that nobody holds, least recently used first."""

    @property
    def used(self) -> int:
        """Blocks that requests hold."""
        return self.blocks - self.free

    @property
    def cached(self) -> int:
        """Blocks that can be found by their hash, held or idle."""
        return len(self._holders)

    def match(self, request: Request) -> int:
        """Leading blocks of the request's prompt that are cached; at least one token stays uncached."""
        if not self.prefix_cache:
            return 0
        holders = self._holders
        limit = (request.prefill_tokens - 1) // self.block_size
        hits = 0
        for block_hash in request.block_hashes[:limit]:
            if block_hash not in holders:
                break
            hits += 1
        return hits

    def take(self, request: Request, tokens: int, hits: int = 0, keep_free: int = 0) -> bool:
        """Grows the request's holding until it has room for `tokens` tokens of context.

        Args:
            request: who holds the blocks.
            tokens: context to have room for, from the first token on.
            hits: what `match` found, for a request that holds nothing yet.
            keep_free: blocks that must stay free afterwards.

        Returns:
            Whether there was room; if not, nothing has changed.
        """
        held = request.blocks + hits
        fresh = -(-tokens // self.block_size) - held
        if fresh < 0:
            fresh = 0
        if not self.prefix_cache:
            if fresh + keep_free > self.free:
                return False
            self.free -= fresh
            request.blocks = held + fresh
            return True
        reused = request.block_hashes[:hits]
        idle_hits = sum([block_hash in self._idle for block_hash in reused])
        if fresh + idle_hits + keep_free > self.free:
            return False
        for block_hash in reused:
            self._holders[block_hash] += 1
            self._idle.pop(block_hash, None)
        request.shared_blocks += hits
        request.blocks = held + fresh
        self.free -= idle_hits
        self.draw(fresh)
        return True

    def enter(self, request: Request, tokens: int) -> None:
        """Makes the request's full prompt blocks findable, up to `tokens` of context.

        Those are blocks that it holds, and that are full once the batch that is being formed has been run.
        """
        full = min(tokens // self.block_size, len(request.block_hashes))
        if full <= request.shared_blocks:
            return
        fresh = request.block_hashes[request.shared_blocks : full]
        if self._holders.keys().isdisjoint(fresh):  # all at once: long prompts have thousands
            self._holders.update(dict.fromkeys(fresh, 1))
            request.shared_blocks = full
            return
        for block_hash in fresh:
            if block_hash in self._holders:
                # A twin computed beside ours: hash and holding must stay one to one, so ours, and what
                # follows it, stays private.
                break
            self._holders[block_hash] = 1
            request.shared_blocks += 1

    def draw(self, blocks: int) -> None:
        """Takes `blocks` free blocks that no hash names; the caller has seen that they are free.

        Raises:
            ValueError: there are not as many free blocks.
        """
        if blocks > self.free:
            raise ValueError(f"{blocks} blocks wanted, {self.free} free")
        self.free -= blocks
        self.evict()

    def evict(self) -> None:
        """Drops idle blocks from the cache until those held and those cached fit together."""
        excess = len(self._idle) - self.free
        if excess <= 0:
            return
        dropped = list(islice(self._idle, excess))
        for block_hash in dropped:
            del self._idle[block_hash]
            del self._holders[block_hash]
        if self.evicted is not None:
            self.evicted += dropped

    def release(self, request: Request) -> None:
        """Takes back all that the request holds."""
        if request.shared_blocks:
            self.give_back(request.blocks, request.block_hashes[: request.shared_blocks])
            request.shared_blocks = 0
        else:
            self.free += request.blocks
        request.blocks = 0

    def give_back(self, blocks: int, hashes: Sequence[int]) -> None:
        """Takes back `blocks` blocks, of which the first `len(hashes)` are cached under these hashes.

        Cached blocks that nobody else holds stay findable; of them the tail will be evicted first.
        """
        self.free += blocks
        if not hashes:
            return
        holders = self._holders
        # Whoever holds a block holds those before it, so that the blocks of several holders come first.
        counts = list(map(holders.__getitem__, hashes))
        several = len(hashes) - counts.count(1)
        for block_hash, count in zip(hashes[:several], counts, strict=False):
            holders[block_hash] = count - 1
        self.free -= several
        alone = hashes[several:]
        holders.update(dict.fromkeys(alone, 0))
        idle = self._idle
        for block_hash in reversed(alone):
            idle[block_hash] = None
