"""Memory for image embeddings: blocks of tokens, found by image content, given back to an LRU."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from triptych.policy.request import Image, Request


class EmbeddingCache:
    """The embedding blocks of one instance. Equal images share one entry.

    A request claims its images one by one, in order; `request.encoded_images` counts them.

    Args:
        blocks: how many there are.
        block_size: tokens in one block.
    """

    __slots__ = ("_holders", "_idle", "_idle_blocks", "block_size", "blocks", "evicted", "free")

    def __init__(self, blocks: int, block_size: int = 16) -> None:
        self.blocks = blocks
        self.block_size = block_size
        self.free = blocks
        """Blocks that no request claims; idle entries count, since they are evicted on demand."""
        self.evicted: list[int] | None = None
        """Contents whose embeddings were dropped, for a driver that has put a list here and clears it."""
        self._holders: dict[int, tuple[int, int]] = {}
        """Content -> (requests that claim it, blocks)."""
        self._idle: OrderedDict[int, int] = OrderedDict()
        """Content -> blocks of entries that nobody claims, least recently used first."""
        self._idle_blocks = 0

    @property
    def used(self) -> int:
        """Blocks that requests claim."""
        return self.blocks - self.free

    def fits(self, request: Request) -> bool:
        """Whether the request's images could ever be held together."""
        return sum(self._size(image) for image in request.images) <= self.blocks

    def knows(self, image: Image) -> bool:
        """Whether the image's embedding is there, or claimed and about to be."""
        return image.content in self._holders or image.content in self._idle

    def claim(self, request: Request) -> bool | None:
        """Claims the request's next image.

        Returns:
            True if its embedding is there, False if room was made and it must be computed, None if there
            is no room (nothing has changed).
        """
        image = request.images[request.encoded_images]
        claims, size = self._holders.get(image.content, (0, self._size(image)))
        hit = claims > 0 or image.content in self._idle
        if claims == 0:
            if size > self.free:
                return None
            self._idle_blocks -= self._idle.pop(image.content, 0)
            self.free -= size
            self._evict()
        self._holders[image.content] = (claims + 1, size)
        request.encoded_images += 1
        return hit

    def claim_all(self, request: Request) -> bool:
        """Claims all images of a request whose embeddings are about to arrive; all or none."""
        fresh: list[Image] = []
        while request.encoded_images < len(request.images):
            image = request.images[request.encoded_images]
            hit = self.claim(request)
            if hit is None:
                self.release(request)
                for image in fresh:  # they never came: nobody may find them
                    self._idle_blocks -= self._idle.pop(image.content, 0)
                return False
            if not hit:
                fresh.append(image)
        return True

    def release(self, request: Request) -> None:
        """Gives up the request's claims; embeddings stay findable until their room is needed."""
        self.give_back(request.images[: request.encoded_images])
        request.encoded_images = 0

    def give_back(self, images: Sequence[Image]) -> None:
        """Gives up one claim on each of `images`."""
        for image in images:
            claims, size = self._holders.pop(image.content)
            if claims > 1:
                self._holders[image.content] = (claims - 1, size)
            else:
                self._idle[image.content] = size
                self._idle_blocks += size
                self.free += size

    def _size(self, image: Image) -> int:
        return -(-image.tokens // self.block_size)

    def _evict(self) -> None:
        """Drops idle entries until claimed and idle ones fit together."""
        while self._idle_blocks > self.free:
            content, size = self._idle.popitem(last=False)
            self._idle_blocks -= size
            if self.evicted is not None:
                self.evicted.append(content)
