"""A batch: what one iteration of one instance works on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from triptych.policy.request import Image, Request


class Chunk(NamedTuple):
    """A piece of one request's prompt."""

    request: Request
    tokens: int
    """Prompt tokens that this iteration computes."""
    history: int
    """Tokens of the request that are in the KV cache already."""
    last: bool
    """Whether the prompt ends with this chunk: then the iteration yields the request's next token."""


@dataclass(slots=True, eq=False)
class Batch:
    """The work of one iteration; `repeat` says how often it may be run before the scheduler is asked again.

    In a repeated run the decodes are the same requests, each one token longer every time; only batches
    of nothing but decodes repeat.
    """

    chunks: list[Chunk]
    decodes: int = 0
    """Requests that decode one token each."""
    decode_kv: int = 0
    """Tokens of KV that decode attention reads in the first iteration, the new ones included; every
    further iteration reads `decodes` more."""
    images: list[tuple[Request, Image]] | None = None
    """Images to run through the vision tower, and who waits for them."""
    encoding: list[Request] | None = None
    """Requests whose encode phase ends with this batch (some may hit the cache and add no image)."""
    padding: int = 0
    """Slots of requests that have ended but are computed all the same (static batching)."""
    repeat: int = 1

    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens in the batch."""
        return sum(chunk.tokens for chunk in self.chunks)

    @property
    def tokens(self) -> int:
        """Tokens that pass through the language model's layers in one iteration."""
        return self.prefill_tokens + self.decodes + self.padding

    @property
    def sampled(self) -> int:
        """Sequences for which a next token is computed (language-model head and sampler)."""
        return sum(chunk.last for chunk in self.chunks) + self.decodes
