"""Encode: batches of images, by patches, for instances that run the vision tower alone.

Source: the encode instances of Singh et al., "Efficiently Serving Large Multimodal Models Using EPD
Disaggregation", ICML 2025.

Images are taken in order of arrival until the patches of one iteration are full; a request's images may be
spread over several iterations. Equal images are encoded once while their embedding is cached. Embeddings
hold their memory until they have been sent on, which is what bounds how far encoding can run ahead.

Example:
    >>> from triptych.policy import EmbeddingCache, EncodeScheduler, Image, KVCache, Phase, Request
    >>> scheduler = EncodeScheduler(KVCache(0), EmbeddingCache(64), phases=[Phase.ENCODE], max_patches=1000)
    >>> cat, dog = Image(patches=600, tokens=150, content=1), Image(patches=500, tokens=125, content=2)
    >>> scheduler.add(Request(0, 200, 10, images=(cat,), phase=Phase.ENCODE))
    >>> scheduler.add(Request(1, 400, 10, images=(cat, dog), phase=Phase.ENCODE))
    >>> batch = scheduler.schedule()
    >>> [image.patches for _, image in batch.images]  # the cat once; the dog would make 1,100 patches
    [600]
    >>> _ = scheduler.complete(batch)
    >>> [request.id for request in scheduler.leaving]
    [0]
    >>> [image.patches for _, image in scheduler.schedule().images]
    [500]
"""

from __future__ import annotations

from triptych.policy.batch import Batch
from triptych.policy.scheduler.base import Scheduler


class EncodeScheduler(Scheduler):
    """Batches images by patches."""

    def schedule(self) -> Batch | None:
        return self._batch([])
