"""A request and its life cycle, as every policy sees it: no clock, no tensor, no socket."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import NamedTuple


class Phase(IntEnum):
    """What a request needs done next."""

    ENCODE = 0
    PREFILL = 1
    DECODE = 2


class Status(Enum):
    """Where a request is in its life. It only moves forward, but for RUNNING -> WAITING on preemption."""

    WAITING = "waiting"
    RUNNING = "running"
    TRANSFERRING = "transferring"
    FINISHED = "finished"
    ABORTED = "aborted"
    TIMED_OUT = "timed_out"
    REJECTED = "rejected"

    @property
    def ended(self) -> bool:
        """Whether the request will never run again."""
        return self in _ENDED


# Looking a member up on its class is slow in CPython 3.11; what is asked for at every step is named here.
ENCODE, PREFILL, DECODE = Phase
WAITING, RUNNING, TRANSFERRING = Status.WAITING, Status.RUNNING, Status.TRANSFERRING
_ENDED = frozenset({Status.FINISHED, Status.ABORTED, Status.TIMED_OUT, Status.REJECTED})


class Image(NamedTuple):
    """One image of a request."""

    patches: int
    """Patches that the vision tower works on."""
    tokens: int
    """Tokens of the language model that it becomes."""
    content: int
    """Hash of its pixels: equal images have equal embeddings."""


@dataclass(slots=True, eq=False)
class Request:
    """One request. The identity is the object; `id` is for people and records."""

    id: int
    prompt_tokens: int
    """Text and image tokens."""
    output_tokens: int
    """Tokens to generate at the most: a scheduler may reserve by it, a router may not look at it."""
    images: tuple[Image, ...] = ()
    block_hashes: tuple[int, ...] = ()
    """Chained hash of each full KV block of the prompt; empty where nothing can be shared."""

    phase: Phase = PREFILL
    status: Status = WAITING
    context_tokens: int = 0
    """Tokens whose keys and values are in the cache of the instance that holds the request. While it
    decodes this stays as it was when it joined the `DecodeSet`: ask `DecodeSet.context`."""
    generated_tokens: int = 0
    """Output tokens known; while it decodes, as it was when it joined."""
    in_flight_tokens: int = 0
    """Prompt tokens that batches under way compute, which are in the cache when those end."""
    lane: int = 0
    """Where lanes share a queue: the one in whose `DecodeSet` it is, or was last."""
    unwanted: bool = False
    """Its client has given up: what works on it ends, and no further batch takes it up."""
    joined_step: int = -1
    """Step of the `DecodeSet` at which it joined; -1 if it has not since it was last admitted."""
    cached_tokens: int = 0
    """Prompt tokens found in the prefix cache at the first admission."""
    preemptions: int = 0
    blocks: int = 0
    """KV blocks held; while it decodes in a growing set, as it was when it joined."""
    shared_blocks: int = 0
    """Of those, leading blocks that stand in the prefix cache under their hash."""
    encoded_images: int = 0
    """Leading images whose embeddings the instance that holds the request has claimed."""

    @property
    def image_tokens(self) -> int:
        """Prompt tokens that come from images."""
        return sum(image.tokens for image in self.images)

    @property
    def prefill_tokens(self) -> int:
        """Tokens that prefill must put into the cache: after a preemption also those generated."""
        return self.prompt_tokens + self.generated_tokens

    @property
    def longest_context(self) -> int:
        """Tokens in the KV cache when the request ends: the last token is never stored."""
        return self.prompt_tokens + self.output_tokens - 1

    @property
    def remaining_tokens(self) -> int:
        """Output tokens still to come."""
        return self.output_tokens - self.generated_tokens
