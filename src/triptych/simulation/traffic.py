"""A workload as one model sees it: request objects made when they arrive and dropped when they end."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from triptych.policy import Image, Request
from triptych.spec.base import SpecError
from triptych.spec.model import Model
from triptych.workload import Requests


class Traffic:
    """The requests of a workload for a model.

    Args:
        requests: the workload's columns.
        model: turns image sizes into patches and tokens.
        hash_block_size: tokens of the KV blocks that are shared by prefix; None if none are.

    Raises:
        SpecError: there are images and the model takes none, or it cannot take one of that size.
    """

    def __init__(self, requests: Requests, model: Model, *, hash_block_size: int | None = None) -> None:
        self.concurrency = requests.concurrency
        self._requests = requests
        self._hash_block_size = hash_block_size if len(requests.prefix_ids) else None
        # Memoryviews give plain Python numbers several times faster than numpy's indexing does.
        self._text = requests.text_tokens.data
        self._output = requests.output_tokens.data
        self._patience = requests.patience.data.cast("B").cast("d")
        self._images = requests.image_offsets.data
        self._content = requests.image_content.data
        self._kind = np.zeros(0, dtype=np.int64).data
        self._kinds: list[tuple[int, int]] = []
        """Patches and tokens of each size of image that occurs."""
        if len(requests.image_content):
            self._measure_images(model)

    def __len__(self) -> int:
        return len(self._text)

    def arrivals(self) -> Iterator[float]:
        """When each request is due: it comes then if fewer than `concurrency` are in flight."""
        return iter(self._requests.arrival.data.cast("B").cast("d"))

    def patience(self, index: int) -> float:
        """Seconds after which the client gives up; inf: never."""
        return self._patience[index]

    def aborts(self, index: int) -> bool:
        """Whether giving up is the client going away rather than a time-out."""
        return bool(self._requests.gives_up_by_abort[index])

    def request(self, index: int) -> Request:
        """A new object for a request."""
        first, last = self._images[index], self._images[index + 1]
        images: tuple[Image, ...] = ()
        prompt = self._text[index]
        if last > first:
            images = tuple(
                Image(*self._kinds[self._kind[image]], self._content[image]) for image in range(first, last)
            )
            prompt += sum(image.tokens for image in images)
        hashes: tuple[int, ...] = ()
        if self._hash_block_size is not None:
            hashes = self._requests.block_hashes(index, self._hash_block_size, prompt)
        return Request(index, prompt, self._output[index], images, hashes)

    def _measure_images(self, model: Model) -> None:
        if model.vision is None:
            problem = f"{model.name} takes no images; remove them or use a vision-language model"
            raise SpecError("images", problem)
        requests = self._requests
        sizes = np.stack([requests.image_width, requests.image_height], axis=1)
        distinct, kinds = np.unique(sizes, axis=0, return_inverse=True)
        self._kind = kinds.reshape(-1).astype(np.int64).data
        for width, height in distinct.tolist():
            try:
                self._kinds.append((model.vision.patches(width, height), model.vision.tokens(width, height)))
            except SpecError as error:
                raise SpecError("images", error.problem) from None
