"""A request and its life cycle, as every policy sees it: no clock, no tensor, no socket."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum


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


_ENDED = frozenset({Status.FINISHED, Status.ABORTED, Status.TIMED_OUT, Status.REJECTED})


@dataclass(frozen=True, slots=True)
class Image:
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

    phase: Phase = Phase.PREFILL
    status: Status = Status.WAITING
    context_tokens: int = 0
    """Tokens whose keys and values are in the cache of the instance that holds the request. While the
    request decodes it is kept by the `DecodeSet`: ask `DecodeSet.context`."""
    generated_tokens: int = 0
    """Output tokens known, kept by the `DecodeSet` while the request decodes."""
    cached_tokens: int = 0
    """Prompt tokens found in the prefix cache at the first admission."""
    preemptions: int = 0
    blocks: int = 0
    """KV blocks held; while the request decodes in a growing set it is derived, not kept."""
    shared_blocks: int = 0
    """Of those, leading blocks that stand in the prefix cache under their hash."""

    @property
    def prefill_tokens(self) -> int:
        """Tokens that prefill must put into the cache: after a preemption also those generated."""
        return self.prompt_tokens + self.generated_tokens

    @property
    def remaining_tokens(self) -> int:
        """Output tokens still to come."""
        return self.output_tokens - self.generated_tokens
