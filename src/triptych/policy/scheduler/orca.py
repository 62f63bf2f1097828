"""Orca: iteration-level scheduling: requests join and leave the batch at every iteration.

Source: Yu et al., "Orca: A Distributed Serving System for Transformer-Based Generative Models", OSDI 2022.

An iteration carries all decodes and the whole prompts of those just admitted (selective batching). KV
memory is reserved at admission for the longest that the request can become, so nobody is ever preempted,
and much of the memory stays empty.

Example:
    >>> from triptych.policy import KVCache, OrcaScheduler, Request
    >>> scheduler = OrcaScheduler(KVCache(blocks=20, block_size=16))
    >>> scheduler.add(Request(id=0, prompt_tokens=100, output_tokens=61))
    >>> _ = scheduler.complete(scheduler.schedule())
    >>> scheduler.kv.used  # for 100 + 60 tokens; the last one is never stored
    10
    >>> scheduler.add(Request(id=1, prompt_tokens=90, output_tokens=50))
    >>> batch = scheduler.schedule()
    >>> batch.prefill_tokens, batch.decodes  # the new one's prompt beside the first one's decode
    (90, 1)
"""

from __future__ import annotations

from typing import ClassVar

from triptych.policy.batch import Batch
from triptych.policy.scheduler.base import Scheduler


class OrcaScheduler(Scheduler):
    """Iteration level, memory reserved for the whole length."""

    grows: ClassVar[bool] = False

    def schedule(self) -> Batch | None:
        self._settle()
        return self._batch(self._whole_prompts())
