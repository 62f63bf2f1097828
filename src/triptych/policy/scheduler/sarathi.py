"""Sarathi: decodes first, and prompts in chunks that fill up the rest of a token budget.

Source: Agrawal et al., "Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve", OSDI 2024.

Every iteration carries all decodes and as much prompt as the budget leaves. So a long prompt never stalls
the decodes for longer than one budget's worth of work, and the decodes ride along with the prompts' weight
reads. KV blocks for a whole prompt are taken when it is admitted; decodes draw theirs as they grow, and
the request that was admitted last is preempted when there are none.

Example:
    >>> from triptych.policy import KVCache, Request, SarathiScheduler
    >>> scheduler = SarathiScheduler(KVCache(blocks=128), max_tokens=512)
    >>> scheduler.add(Request(id=0, prompt_tokens=700, output_tokens=3))
    >>> batch = scheduler.schedule()
    >>> batch.prefill_tokens
    512
    >>> _ = scheduler.complete(batch)
    >>> batch = scheduler.schedule()
    >>> batch.prefill_tokens  # the rest of the prompt
    188
    >>> _ = scheduler.complete(batch)
    >>> scheduler.add(Request(id=1, prompt_tokens=900, output_tokens=3))
    >>> batch = scheduler.schedule()
    >>> batch.decodes, batch.prefill_tokens  # the decode goes first, the next prompt gets what is left
    (1, 511)
"""

from __future__ import annotations

from typing import ClassVar

from triptych.policy.batch import Batch, Chunk
from triptych.policy.scheduler.base import Scheduler


class SarathiScheduler(Scheduler):
    """Decode first, chunked prefill; `max_tokens` is the paper's chunk size."""

    default_tokens: ClassVar[int] = 512
    default_watermark: ClassVar[float] = 0.01

    def schedule(self) -> Batch | None:
        self._settle()
        if self.decodes.members and not self.decodes.draw_blocks():
            self._make_room()
        budget = self.max_tokens - len(self.decodes.members)
        chunks: list[Chunk] = []
        for request in self.prefilling:
            if budget <= 0:
                break
            chunks.append(self._chunk(request, budget))
            budget -= chunks[-1].tokens
        while self.waiting and budget > 0 and self._may_admit():
            request = next(iter(self.waiting))
            hits = self.kv.match(request)
            if not self._start(request, request.prefill_tokens, hits, self._keep_free()):
                break
            chunks.append(self._chunk(request, budget))
            budget -= chunks[-1].tokens
        batch = self._batch(chunks)
        if batch is not None and len(chunks) == 1 and not chunks[0].last:
            batch.repeat = self._runs(batch, chunks[0])
        return batch

    def _runs(self, batch: Batch, piece: Chunk) -> int:
        """How often the same would be formed: full chunks of one prompt, the same decodes beside them."""
        if self.preempted or batch.images or batch.encoded or self.kv.prefix_cache:
            return 1  # with a prefix cache each chunk's blocks become findable as it is formed
        full_chunks = (piece.request.prefill_tokens - piece.history - 1) // piece.tokens
        return min(full_chunks, self.decodes.steps_to_run()) if batch.decodes else full_chunks
