"""Pages: which places in the KV pool belong to which request.

The policy counts blocks and knows what is shared (`policy.KVCache`); here the counts get places. A request's
pages are laid side by side wherever there is room, with room behind them for what it may still generate: then
its keys and values are one strided view of the pool, which attention reads without copying. Where the pool is
too full for that, any free page will do and attention gathers.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from triptych.policy import KVCache, Request

_FREE, _TAKEN, _SPARE = 0, 1, 2
"""SPARE: free, but somebody's next pages should come here; others take it last."""


class Holder(Protocol):
    """What holds pages."""

    request: Request
    pages: list[int]
    """In the order of its tokens."""
    shared: int
    """Leading pages that belong to the prefix cache."""
    spare: tuple[int, int]
    """Pages [first, last) kept for its growth."""


class Pages:
    """The pages of one instance's KV cache.

    Args:
        kv: counts them; from now on it also logs what it evicts, and this object reads that log.
    """

    def __init__(self, kv: KVCache) -> None:
        kv.evicted = []
        self._kv = kv
        self._state: npt.NDArray[np.uint8] = np.zeros(kv.blocks, dtype=np.uint8)
        self._cached: dict[int, int] = {}
        """Hash of a block in the prefix cache -> its page."""

    @property
    def free(self) -> int:
        """Pages that hold nothing, cached prefixes included among what is held."""
        return int(np.count_nonzero(self._state != _TAKEN))

    def settle(self) -> None:
        """Frees what the prefix cache has evicted. Comes first after `schedule`."""
        evicted = self._kv.evicted
        if evicted:
            for block_hash in evicted:
                page = self._cached.pop(block_hash, None)
                if page is not None:  # None: entered and evicted while one batch was formed
                    self._state[page] = _FREE
            evicted.clear()

    def bind(self, holder: Holder, history: int, tokens: int) -> None:
        """Gives the holder pages for `history` tokens that are in the cache and `tokens` more.

        Newly shared blocks become findable, so holders are bound in the order of the batch.
        """
        size, request, pages = self._kv.block_size, holder.request, holder.pages
        if not pages and history:  # admitted with blocks from the prefix cache
            holder.shared = history // size
            pages += [self._cached[block_hash] for block_hash in request.block_hashes[: holder.shared]]
        need = -(-(history + tokens) // size) - len(pages)
        if need > 0:
            self._extend(holder, need)
        for index in range(holder.shared, request.shared_blocks):
            self._cached[request.block_hashes[index]] = pages[index]
        holder.shared = max(holder.shared, request.shared_blocks)

    def release(self, holder: Holder) -> None:
        """Takes back all pages but those of the prefix cache, which are freed as it evicts them."""
        for page in holder.pages[holder.shared :]:
            self._state[page] = _FREE
        self._give_up_spare(holder)
        holder.pages.clear()
        holder.shared = 0

    def _extend(self, holder: Holder, need: int) -> None:
        state, pages = self._state, holder.pages
        while need and pages:  # first the room behind what it has
            page = pages[-1] + 1
            first, last = holder.spare
            if page >= len(state):
                break
            if state[page] != _FREE and not (state[page] == _SPARE and first <= page < last):
                break
            state[page] = _TAKEN
            pages.append(page)
            need -= 1
        if not need:
            return
        self._give_up_spare(holder)
        longest = -(-holder.request.longest_context // self._kv.block_size)
        wanted = max(need, longest - len(pages))
        while need:
            first, length = self._run(wanted)
            taken = min(need, length)
            state[first : first + taken] = _TAKEN
            pages += range(first, first + taken)
            need -= taken
            wanted -= taken
        end = first + min(length, taken + wanted)
        holder.spare = (first + taken, end)
        ahead = state[first + taken : end]
        ahead[ahead == _FREE] = _SPARE

    def _run(self, wanted: int) -> tuple[int, int]:
        """The tightest run of free pages that holds `wanted`, else the longest: first page and length."""
        for usable in (self._state == _FREE, self._state != _TAKEN):
            edges = np.flatnonzero(np.diff(usable, prepend=False, append=False))
            firsts, lengths = edges[::2], edges[1::2] - edges[::2]
            if len(firsts):
                enough = np.flatnonzero(lengths >= wanted)
                best = enough[np.argmin(lengths[enough])] if len(enough) else np.argmax(lengths)
                return int(firsts[best]), int(lengths[best])
        raise RuntimeError("the policy has handed out more blocks than there are pages")

    def _give_up_spare(self, holder: Holder) -> None:
        first, last = holder.spare
        ahead = self._state[first:last]
        ahead[ahead == _SPARE] = _FREE
        holder.spare = (0, 0)
