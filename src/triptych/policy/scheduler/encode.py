"""Encode: batches of images, by patches, for instances that run the vision tower alone.

Images are taken in order of arrival until the patches of one iteration are full; a request's images may be
spread over several iterations. Equal images are encoded once while their embedding is cached. Embeddings
hold their memory until they have been sent on, which is what bounds how far encoding can run ahead.
"""

from __future__ import annotations

from triptych.policy.batch import Batch
from triptych.policy.scheduler.base import Scheduler


class EncodeScheduler(Scheduler):
    """Batches images by patches."""

    def schedule(self) -> Batch | None:
        return self._batch([])
