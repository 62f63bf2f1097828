"""Pages: which places in the KV pool belong to which request.

The policy counts blocks and knows what is shared (`policy.KVCache`); here the counts get places. A request's
pages are laid side by side with room behind them for what it may still generate: then its keys and values are
one strided view of the pool, which attention reads without copying. A pool is soon full of cached prefixes
that nobody holds, and what the policy evicts of them leaves gaps of a page here and there. So what stands in
the way is moved: copying a page once is less than gathering a context at every step. Only where somebody else
holds what would have to move is a request scattered, and attention gathers.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

from triptych.policy import KVCache, Request

_FREE, _HELD, _IDLE = 0, 1, 2
"""IDLE: in the prefix cache, and nobody holds it."""

Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


class Holder(Protocol):
    """What holds pages."""

    request: Request
    pages: list[int]
    """In the order of its tokens."""
    shared: int
    """Leading pages that belong to the prefix cache."""
    spare: tuple[int, int]
    """Pages [first, last) where it means to grow."""


class Pages:
    """The pages of one instance's KV cache.

    Args:
        kv: counts them; from now on it also logs what it evicts, and this object reads that log.
    """

    def __init__(self, kv: KVCache) -> None:
        kv.evicted = []
        self._kv = kv
        self._state: npt.NDArray[np.uint8] = np.full(kv.blocks, _FREE, dtype=np.uint8)
        self._spare: Mask = np.zeros(kv.blocks, dtype=np.bool_)
        """Where holders mean to grow; others come here last."""
        self._holders: Ints = np.zeros(kv.blocks, dtype=np.int64)
        """Of each page of the prefix cache."""
        self._cached: dict[int, int] = {}
        """Hash of a block in the prefix cache -> its page."""
        self._hash: dict[int, int] = {}
        """And back."""
        self._content: dict[int, int] = {}
        """Page -> the page that holds its content until `moves` are made."""

    @property
    def free(self) -> int:
        """Pages that hold nothing, cached prefixes included among what is held."""
        return int(np.count_nonzero(self._state == _FREE))

    def settle(self) -> None:
        """Frees what the prefix cache has evicted. Comes first after `schedule`."""
        evicted = self._kv.evicted
        if evicted:
            for block_hash in evicted:
                page = self._cached.pop(block_hash, None)
                if page is not None:  # None: entered and evicted while one batch was formed
                    self._state[page] = _FREE
                    del self._hash[page]
            evicted.clear()

    def bind(self, holder: Holder, history: int, tokens: int) -> None:
        """Gives the holder pages for `history` tokens that are in the cache and `tokens` more.

        Newly shared blocks become findable, so holders are bound in the order of the batch.
        """
        size, request, pages = self._kv.block_size, holder.request, holder.pages
        if not pages and history:  # admitted with blocks from the prefix cache
            holder.shared = history // size
            for block_hash in request.block_hashes[: holder.shared]:
                page = self._cached[block_hash]
                pages.append(page)
                self._state[page] = _HELD
                self._holders[page] += 1
        need = -(-(history + tokens) // size) - len(pages)
        if need > 0:
            self._extend(holder, need)
        for index in range(holder.shared, request.shared_blocks):
            block_hash, page = request.block_hashes[index], pages[index]
            self._cached[block_hash], self._hash[page] = page, block_hash
            self._holders[page] = 1
        holder.shared = max(holder.shared, request.shared_blocks)

    def release(self, holder: Holder) -> None:
        """Takes back all pages; those of the prefix cache are freed as it evicts them."""
        for page in holder.pages[: holder.shared]:
            self._holders[page] -= 1
            if not self._holders[page]:
                self._state[page] = _IDLE
        for page in holder.pages[holder.shared :]:
            self._state[page] = _FREE
        self._give_up_spare(holder)
        holder.pages.clear()
        holder.shared = 0

    def moves(self) -> Mapping[int, int]:
        """Page -> the page whose content is to be copied there, all at once, before anything is written."""
        moved = {page: source for page, source in self._content.items() if page != source}
        self._content.clear()
        return moved

    # Where pages are laid -----------------------------------------------------------------------------

    def _extend(self, holder: Holder, need: int) -> None:
        pages = holder.pages
        longest = -(-holder.request.longest_context // self._kv.block_size)
        wanted = max(need, longest - len(pages))  # by the end
        movable = self._may_move(holder)
        if pages and (_side_by_side(pages) or not movable):
            first = pages[-1] + 1
            room = self._usable(first, first + need, holder)
            self._take(holder, range(first, first + room))
            need, wanted = need - room, wanted - room
        if not need:
            return
        self._give_up_spare(holder)
        before = len(pages)
        first, length = self._run(need + before, wanted + before) if movable else (0, 0)
        if length >= need + before:
            for index, page in enumerate(pages):
                self._swap(page, first + index)
                pages[index] = first + index
            first, length = first + before, length - before
        else:
            first, length = self._run(need, wanted)
        while need:
            taken = min(need, length)
            last, end = first + taken, first + min(length, wanted)
            if taken == need:  # now, so that nothing is moved to where this holder will grow
                holder.spare = (last, end)
                self._spare[last:end] = True
            self._take(holder, range(first, last))
            need, wanted = need - taken, wanted - taken
            if need:
                first, length = self._run(need, wanted)

    def _usable(self, first: int, last: int, holder: Holder) -> int:
        """Of pages [first, last), how many at the front the holder can have."""
        last = min(last, len(self._state))
        barred = self._state[first:last] == _HELD
        begin, end = (min(max(edge - first, 0), len(barred)) for edge in holder.spare)
        others = self._spare[first:last].copy()
        others[begin:end] = False
        found = np.flatnonzero(barred | others)
        return int(found[0]) if len(found) else len(barred)

    def _run(self, need: int, wanted: int) -> tuple[int, int]:
        """Pages side by side that nobody holds: `wanted`, else `need`, else the most: first page and length.

        Of several such runs that with the fewest cached pages among the first `need`, then that with the
        least room to waste.
        """
        unheld = self._state != _HELD
        for length in dict.fromkeys((wanted, need)):
            for usable in (unheld & ~self._spare, unheld):
                firsts, lengths = _runs(usable)
                firsts, lengths = firsts[lengths >= length], lengths[lengths >= length]
                if len(firsts):
                    return self._cheapest(firsts, lengths, need, length), length
        firsts, lengths = _runs(unheld)
        if not len(firsts):
            raise RuntimeError("the policy has handed out more blocks than there are pages")
        return int(firsts[np.argmax(lengths)]), int(lengths.max())

    def _cheapest(self, firsts: Ints, lengths: Ints, need: int, length: int) -> int:
        """Where in these runs, all of `length` pages or more, to begin."""
        ways = lengths - length + 1
        of_run = np.repeat(np.arange(len(firsts)), ways)
        begins = firsts[of_run] + np.arange(len(of_run)) - np.repeat(np.cumsum(ways) - ways, ways)
        cached = np.concatenate([[0], np.cumsum(self._state == _IDLE)])
        moved = cached[begins + need] - cached[begins]
        best = np.flatnonzero(moved == moved.min())
        return int(begins[best[np.argmin(lengths[of_run[best]])]])

    def _may_move(self, holder: Holder) -> bool:
        """Whether nobody else holds any of its pages."""
        return bool((self._holders[holder.pages[: holder.shared]] <= 1).all())

    def _take(self, holder: Holder, pages: range) -> None:
        """Gives pages that nobody holds to the holder; what is cached there goes elsewhere."""
        cached = pages.start + np.flatnonzero(self._state[pages.start : pages.stop] == _IDLE)
        for page, other in zip(cached.tolist(), self._elsewhere(pages, len(cached)), strict=True):
            self._swap(page, other)
        self._state[pages.start : pages.stop] = _HELD
        holder.pages += pages

    def _elsewhere(self, pages: range, count: int) -> list[int]:
        """Free pages outside of these, as far as there are such where nobody means to grow."""
        if not count:
            return []
        free = self._state == _FREE
        free[pages.start : pages.stop] = False
        found = np.concatenate([np.flatnonzero(free & self._spare), np.flatnonzero(free & ~self._spare)])
        chosen: list[int] = found[-count:].tolist()
        return chosen

    def _swap(self, one: int, other: int) -> None:
        """Lets two pages change places, with all that is in them."""
        for column in (self._state, self._holders):
            column[one], column[other] = column[other], column[one]
        content = self._content
        content[one], content[other] = content.get(other, other), content.get(one, one)
        for page in (one, other):
            if self._state[page] == _FREE:
                del content[page]
        hashes = self._hash.pop(one, None), self._hash.pop(other, None)
        for page, block_hash in zip((other, one), hashes, strict=True):
            if block_hash is not None:
                self._hash[page], self._cached[block_hash] = block_hash, page

    def _give_up_spare(self, holder: Holder) -> None:
        first, last = holder.spare
        self._spare[first:last] = False
        holder.spare = (0, 0)


def _runs(usable: Mask) -> tuple[Ints, Ints]:
    """First page and length of every run of usable pages."""
    edges = np.flatnonzero(np.diff(usable, prepend=False, append=False))
    return edges[::2], edges[1::2] - edges[::2]


def _side_by_side(pages: list[int]) -> bool:
    return all(after - page == 1 for page, after in pairwise(pages))
