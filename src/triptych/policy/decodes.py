"""The decoding requests of one instance, kept in aggregate so that a step costs the same for any batch.

Every member gains one token an iteration. So when a member ends, how much KV the batch reads and how many
blocks it will need at each coming step all follow from when it joined: ends are a heap over the step
counter, KV is one sum, and block needs are a histogram over the step counter modulo the block size.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from itertools import count

from triptych.policy.kvcache import KVCache
from triptych.policy.request import Request


class DecodeSet:
    """Requests that decode together.

    Args:
        kv: the cache their blocks come from.
        grows: whether members draw blocks as they lengthen; if not, they hold all they need (orca, static).
        lane: number of the set among those of lanes that share a queue.
        numbers: numbers of their joins.
    """

    __slots__ = (
        *("_ends", "_grows", "_lengths", "_needs", "context_tokens", "drawn", "kv", "lane"),
        *("members", "numbers", "step"),
    )

    def __init__(
        self, kv: KVCache, *, grows: bool = True, lane: int = 0, numbers: Iterator[int] | None = None
    ) -> None:
        self.kv = kv
        self.lane = lane
        self.numbers: Iterator[int] = count(1) if numbers is None else numbers
        self.step = 0
        """Decode iterations that have been run."""
        self.context_tokens = 0
        """Tokens of all members in the KV cache."""
        self.drawn = 0
        """Blocks that the iterations of the last run drew, those of its first left out."""
        self._grows = grows
        self.members: dict[Request, int] = {}
        """In the order in which they joined, each with the number of its join, which tells its entry in the
        heap from one of an earlier stay."""
        self._ends: list[tuple[int, int, Request]] = []
        """Heap of (step after which it has all its tokens, number of its join, member)."""
        self._lengths: list[tuple[int, int, Request]] = []
        """Heap of (step at which its context would have been empty, number of its join, member): all lengthen
        alike, so the first is the longest."""
        self._needs = [0] * kv.block_size
        """Members that need a new block at steps equal to the index, modulo the block size."""

    def beside(self, lane: int) -> DecodeSet:
        """An empty set of another lane that shares the queue."""
        return DecodeSet(self.kv, grows=self._grows, lane=lane, numbers=self.numbers)

    def join(self, request: Request) -> None:
        """Adds a request whose prompt is in the cache and whose last known token is not."""
        step, context = self.step, request.context_tokens
        number = next(self.numbers)
        request.joined_step = step
        request.lane = self.lane
        self.members[request] = number
        heappush(self._ends, (step + request.remaining_tokens, number, request))
        heappush(self._lengths, (step - context, number, request))
        self.context_tokens += context
        if self._grows:
            self._needs[(step - context) % self.kv.block_size] += 1

    def leave(self, request: Request) -> None:
        """Removes a member and writes its progress into it; its blocks are still held."""
        del self.members[request]
        joined, before = request.joined_step, request.context_tokens
        gained = self.step - joined
        request.context_tokens = context = before + gained
        request.generated_tokens += gained
        self.context_tokens -= context
        if self._grows:
            request.blocks = -(-context // self.kv.block_size)
            self._needs[(joined - before) % self.kv.block_size] -= 1

    def context(self, request: Request) -> int:
        """Tokens of a member in the KV cache."""
        return request.context_tokens + self.step - request.joined_step

    def generated(self, request: Request) -> int:
        """Output tokens of a member."""
        return request.generated_tokens + self.step - request.joined_step

    def longest(self) -> int:
        """Tokens in the KV cache of the member that has most; 0 without members."""
        lengths, members = self._lengths, self.members
        if len(lengths) > 2 * len(members) + 64:  # of those that left below the top
            self._lengths = lengths = [entry for entry in lengths if members.get(entry[2]) == entry[1]]
            heapify(lengths)
        while lengths and members.get(lengths[0][2]) != lengths[0][1]:
            heappop(lengths)
        return self.step - lengths[0][0] if lengths else 0

    def youngest(self) -> Request:
        """The member that joined last."""
        return next(reversed(self.members))

    def joined_last(self) -> int:
        """Number of that join; 0 without members."""
        return self.members[self.youngest()] if self.members else 0

    def draw_blocks(self) -> bool:
        """Takes the blocks that the coming iteration needs, if so many are free; says whether they were."""
        kv = self.kv
        needed = self._needs[self.step % kv.block_size]
        if needed > kv.free:
            return False
        kv.free -= needed
        if kv.prefix_cache:
            kv.evict()
        return True

    def steps_to_run(self) -> int:
        """Iterations until the first member ends or memory runs out.

        The coming iteration's blocks have been drawn already; so it is at least 1 for a set with members.
        """
        ends, members = self._ends, self.members
        end, number, request = ends[0]
        while members.get(request) != number:  # it left before its end
            heappop(ends)
            end, number, request = ends[0]
        steps = end - self.step
        size, free = self.kv.block_size, self.kv.free
        if not self._grows or len(members) * ((steps - 1) // size + 1) <= free:
            return steps
        return min(steps, 1 + self._steps_within(free))

    def advance(self, iterations: int) -> list[Request]:
        """Runs `iterations` steps; returns the members that ended with the last one, no longer members.

        The blocks of the first step have been drawn; those of the others are drawn here.
        """
        self.drawn = 0
        if iterations > 1 and self._grows:
            self.drawn = self._blocks_over(self.step + 1, iterations - 1)
            self.kv.draw(self.drawn)
        self.step = step = self.step + iterations
        ends, members = self._ends, self.members
        self.context_tokens += len(members) * iterations
        finished: list[Request] = []
        while ends and ends[0][0] <= step:
            _, number, request = heappop(ends)
            if members.get(request) == number:
                self.leave(request)
                finished.append(request)
        return finished

    def _blocks_over(self, step: int, steps: int) -> int:
        """Blocks needed by `steps` iterations, the first of which is number `step`."""
        cycles, rest = divmod(steps, self.kv.block_size)
        first = step % self.kv.block_size
        needs = self._needs
        wrapped = first + rest - self.kv.block_size
        partial = sum(needs[first : first + rest]) + (sum(needs[:wrapped]) if wrapped > 0 else 0)
        return cycles * len(self.members) + partial

    def _steps_within(self, free: int) -> int:
        """Iterations after the coming one that `free` blocks carry."""
        size, needs = self.kv.block_size, self._needs
        cycles, left = divmod(free, len(self.members))
        steps = cycles * size
        while needs[(self.step + 1 + steps) % size] <= left:
            left -= needs[(self.step + 1 + steps) % size]
            steps += 1
        return steps
