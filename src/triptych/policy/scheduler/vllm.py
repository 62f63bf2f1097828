"""vLLM's first scheduler: prompts first and alone, else all decodes.

Source: Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention", SOSP
2023, and vLLM V0 (`core/scheduler.py`, without chunked prefill).

While anything can be admitted an iteration is made of whole prompts, and decodes stall; that gives the
shortest time to first token and the longest gaps between tokens. Images count as prompt work. Decodes draw
KV blocks as they grow, and the request that was admitted last is preempted when there are none.

Example:
    >>> from triptych.policy import KVCache, Request, VllmScheduler
    >>> scheduler = VllmScheduler(KVCache(blocks=64))
    >>> scheduler.add(Request(id=0, prompt_tokens=100, output_tokens=20))
    >>> _ = scheduler.complete(scheduler.schedule())
    >>> scheduler.add(Request(id=1, prompt_tokens=300, output_tokens=5))
    >>> batch = scheduler.schedule()
    >>> batch.prefill_tokens, batch.decodes  # the first one's decode stalls for the new prompt
    (300, 0)
    >>> _ = scheduler.complete(batch)
    >>> batch = scheduler.schedule()
    >>> batch.prefill_tokens, batch.decodes
    (0, 2)
"""

from __future__ import annotations

from typing import ClassVar

from triptych.policy.batch import Batch, Chunk
from triptych.policy.scheduler.base import Scheduler


class VllmScheduler(Scheduler):
    """Prefill first, preempts by recompute; a prompt longer than `max_tokens` is let through alone."""

    default_tokens: ClassVar[int] = 8192
    default_watermark: ClassVar[float] = 0.01

    def schedule(self) -> Batch | None:
        self._settle()
        chunks = self._prompts()
        images, encoded = self._images()
        if chunks or images or encoded:
            return Batch(chunks, images=images, encoded=encoded)
        self._make_room()
        return self._batch(chunks, encode=False)

    def _prompts(self) -> list[Chunk]:
        """Whole prompts, in order of arrival, that fit the budget, the batch and memory."""
        chunks: list[Chunk] = []
        budget = self.max_tokens
        while self._may_admit():
            request = next(iter(self.waiting))
            hits = self.kv.match(request)
            tokens = request.prefill_tokens - hits * self.kv.block_size
            if chunks and tokens > budget:
                break
            if not self._start(request, request.prefill_tokens, hits, self._keep_free()):
                break
            chunks.append(self._chunk(request, tokens))
            budget -= tokens
        return chunks
