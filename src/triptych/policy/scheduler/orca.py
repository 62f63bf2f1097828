"""Orca: iteration-level scheduling: requests join and leave the batch at every iteration.

Source: Yu et al., "Orca: A Distributed Serving System for Transformer-Based Generative Models", OSDI 2022.

An iteration carries all decodes and the whole prompts of those just admitted (selective batching). KV
memory is reserved at admission for the longest that the request can become, so nobody is ever preempted,
and much of the memory stays empty.
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
