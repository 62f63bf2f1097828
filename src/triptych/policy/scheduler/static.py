"""Static batching: a batch is formed, runs until its last request ends, and only then comes the next.

Source: NVIDIA FasterTransformer, as described by Yu et al. (Orca, OSDI 2022), section 2.

All prompts are computed in the first iteration, then every iteration decodes. A request that ends gets its
answer at once, but its slot is computed, as padding, until the longest is done. KV memory is reserved for
whole lengths. Prompts are not padded here, as FasterTransformer padded them to the longest of the batch: a
batch of unequal prompts costs less than it did there.

Example:
    >>> from triptych.policy import KVCache, Request, StaticScheduler
    >>> scheduler = StaticScheduler(KVCache(blocks=64), max_batch=2)
    >>> for number, (prompt, output) in enumerate([(100, 2), (40, 4), (70, 1)]):
    ...     scheduler.add(Request(number, prompt, output))
    >>> batch = scheduler.schedule()
    >>> [chunk.tokens for chunk in batch.chunks]  # the prompts of the first two, as long as they are
    [100, 40]
    >>> _ = scheduler.complete(batch)
    >>> _, finished = scheduler.complete(scheduler.schedule())
    >>> [request.id for request in finished]  # with its second token
    [0]
    >>> batch = scheduler.schedule()
    >>> batch.decodes, batch.padding  # and nobody takes its place
    (1, 1)
"""

from __future__ import annotations

from typing import ClassVar

from triptych.policy.batch import Batch
from triptych.policy.scheduler.base import Scheduler


class StaticScheduler(Scheduler):
    """The batch runs until all end."""

    grows: ClassVar[bool] = False
    _slots = 0

    def schedule(self) -> Batch | None:
        if self.running == 0:
            self._settle()
            chunks = self._whole_prompts()
            self._slots = self.running
            return self._batch(chunks)
        return self._batch([], encode=False, padding=self._slots - self.running)
