"""Static batching: a batch is formed, runs until its last request ends, and only then comes the next.

Source: NVIDIA FasterTransformer, as described by Yu et al. (Orca, OSDI 2022), section 2.

All prompts are computed in the first iteration, then every iteration decodes. A request that ends gets its
answer at once, but its slot is computed, as padding, until the longest is done. KV memory is reserved for
whole lengths.
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
