"""Unified: one token budget over what runs, then over what waits, prefill and decode alike.

Source: vLLM V1 (`v1/core/sched/scheduler.py`); SGLang's mixed chunked batches follow the same plan.

Every iteration carries all decodes and as much prompt as the budget leaves. Unlike sarathi, KV blocks are
taken chunk by chunk rather than for a whole prompt at admission, no watermark is kept, and an iteration that
had to preempt admits nobody.

The lanes of a pipeline share memory and queues (`LifeCycle.share`), as V1 has one scheduler for as many
batches under way as there are stages. A request that waits for its token sits out, but the next chunk of a
prompt may follow the one before it through the stages. Unlike there, a request is never preempted while it is
under way: who needs its memory waits for that batch.

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

    shares: ClassVar[bool] = True
    default_tokens: ClassVar[int] = 8192

    def schedule(self) -> Batch | None:
        self._settle()
        if self.decodes.members and not self.decodes.draw_blocks() and not self._make_room():
            return None
        budget = self.max_tokens - len(self.decodes.members)
        chunks: list[Chunk] = []
        short = False
        for request in list(self.prefilling):
            if budget <= 0 or request not in self.prefilling:
                break
            if request.in_flight_tokens and self._waits(request):
                continue
            if not self._make_room_for(request, budget):
                short = True
                break
            chunks.append(self._chunk(request, budget))
            budget -= chunks[-1].tokens
        while self.waiting and budget > 0 and not short and self._may_admit():
            request = next(iter(self.waiting))
            hits = self.kv.match(request)
            cached = hits * self.kv.block_size
            tokens = min(request.prefill_tokens, cached + budget)
            if not self._start(request, tokens, hits):
                break
            chunks.append(self._chunk(request, budget))
            budget -= chunks[-1].tokens
        self.in_flight = batch = self._batch(chunks)
        return batch

    def _waits(self, request: Request) -> bool:
        """Whether what is under way of the request's prompt is all there is to compute."""
        return request.unwanted or request.context_tokens + request.in_flight_tokens == request.prefill_tokens

    def _make_room_for(self, request: Request, budget: int) -> bool:
        """Takes the blocks of the request's next chunk, preempting the latest, at last the request itself."""
        history = request.context_tokens + request.in_flight_tokens
        reach = min(request.prefill_tokens, history + budget)
        while not self.kv.take(request, reach):
            victim = self._latest()
            if self._under_way(victim):
                return False
            self._preempt(victim)
            if victim is request:
                return False
        return True
