"""Unified: one token budget over what runs, then over what waits, prefill and decode alike.

Source: vLLM V1 (`v1/core/sched/scheduler.py`); SGLang's mixed chunked batches follow the same plan.

Every iteration carries all decodes and as much prompt as the budget leaves. Unlike sarathi, KV blocks are
taken chunk by chunk rather than for a whole prompt at admission, no watermark is kept, and an iteration that
had to preempt admits nobody.

Example:
    >>> from triptych.policy import KVCache, Request, UnifiedScheduler
    >>> scheduler = UnifiedScheduler(KVCache(blocks=64, block_size=16), max_tokens=512)
    >>> scheduler.add(Request(id=0, prompt_tokens=700, output_tokens=3))
    >>> batch = scheduler.schedule()
    >>> batch.prefill_tokens, scheduler.kv.used  # blocks for this chunk; sarathi would take all 44
    (512, 32)
    >>> _ = scheduler.complete(batch)
    >>> batch = scheduler.schedule()
    >>> batch.prefill_tokens, scheduler.kv.used
    (188, 44)
"""

from __future__ import annotations

from typing import ClassVar

from triptych.policy.batch import Batch, Chunk
from triptych.policy.request import Request
from triptych.policy.scheduler.base import Scheduler


class UnifiedScheduler(Scheduler):
    """One token budget, running requests first.

    vLLM calls `max_tokens` `max_num_batched_tokens` and `max_batch` `max_num_seqs`.
    """

    default_tokens: ClassVar[int] = 8192

    def schedule(self) -> Batch | None:
        self._settle()
        if self.decodes.members and not self.decodes.draw_blocks():
            self._make_room()
        budget = self.max_tokens - len(self.decodes.members)
        chunks: list[Chunk] = []
        for request in list(self.prefilling):
            if budget <= 0 or request not in self.prefilling:
                break
            if not self._make_room_for(request, budget):
                break
            chunks.append(self._chunk(request, budget))
            budget -= chunks[-1].tokens
        while self.waiting and budget > 0 and self._may_admit():
            request = next(iter(self.waiting))
            hits = self.kv.match(request)
            cached = hits * self.kv.block_size
            tokens = min(request.prefill_tokens, cached + budget)
            if not self._start(request, tokens, hits):
                break
            chunks.append(self._chunk(request, budget))
            budget -= chunks[-1].tokens
        return self._batch(chunks)

    def _make_room_for(self, request: Request, budget: int) -> bool:
        """Takes the blocks of the request's next chunk, preempting the latest, at last the request itself."""
        reach = min(request.prefill_tokens, request.context_tokens + budget)
        while not self.kv.take(request, reach):
            victim = self._latest()
            self._preempt(victim)
            if victim is request:
                return False
        return True
