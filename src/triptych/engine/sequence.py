"""A request as the engine sees it: the policy's view of it, its tokens, and the places they have."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from triptych.engine.messages import ImageInput, Sampling
from triptych.policy import Image, Request


@dataclass(slots=True, eq=False)
class Sequence:
    """One request. Its pages are kept by `Pages`."""

    id: str
    request: Request
    tokens: list[int]
    """Prompt and, behind it, what has been generated."""
    sampling: Sampling
    images: Items[ImageInput] = ()
    spans: Items[tuple[int, int]] = ()
    """Of each image, the tokens [first, last) that stand for it."""
    positions: Any = None
    """Rotary positions of the prompt in time, height and width, tensor of shape (3, prompt tokens); None:
    they count 0, 1, 2, ..."""
    shift: int = 0
    """What is added to the number of a generated token to give its rotary position."""
    generator: Any = None
    """torch.Generator of the request's own draws; None: of the engine's."""
    pages: list[int] = field(default_factory=list)
    shared: int = 0
    spare: tuple[int, int] = (0, 0)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return self.request.prompt_tokens


def image_spans(
    tokens: Items[int], images: Items[ImageInput], placeholder: int | None
) -> list[tuple[int, int]]:
    """The tokens that stand for each image, in order.

    Raises:
        ValueError: the placeholders in the prompt are not those of the images.
    """
    spans: list[tuple[int, int]] = []
    end = 0
    for image in images:
        try:
            first = tokens.index(placeholder, end)
        except ValueError:
            raise ValueError(f"{len(images)} images, but placeholders for {len(spans)}") from None
        end = first + image.tokens
        if any(token != placeholder for token in tokens[first:end]) or end > len(tokens):
            raise ValueError(
                f"image {len(spans)} takes {image.tokens} placeholder tokens, and there are fewer"
            )
        spans.append((first, end))
    return spans


def block_hashes(
    tokens: Items[int], images: Items[ImageInput], spans: Items[tuple[int, int]], size: int
) -> tuple[int, ...]:
    """Chained hash of each full block of `size` prompt tokens: of the tokens, and of what images show."""
    seen = list(tokens)
    for image, (first, last) in zip(images, spans, strict=True):
        for index in range(first, last):
            seen[index] = -1 - image.content
    hashes = []
    before = b""
    for first in range(0, len(seen) - size + 1, size):
        before = blake2b(before + repr(seen[first : first + size]).encode(), digest_size=8).digest()
        hashes.append(int.from_bytes(before, "little") >> 1)
    return tuple(hashes)


def policy_images(images: Items[ImageInput]) -> tuple[Image, ...]:
    """The images as schedulers see them."""
    return tuple(
        Image(image.grid[0] * image.grid[1] * image.grid[2], image.tokens, image.content) for image in images
    )
