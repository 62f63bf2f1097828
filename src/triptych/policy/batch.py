"""A batch: what one iteration of one instance works on."""

from __future__ import annotations

from collections.abc import Sequence
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


class Batch:
    """The work of one iteration. All members of the instance's `DecodeSet` decode one token in it.

    Args:
        chunks: pieces of prompts.
        decodes: requests that decode one token each.
        decode_kv: tokens of KV that decode attention reads in the first iteration, the new ones included;
            every further iteration reads `decodes` more.
        repeat: how many times it may be run before the scheduler must be asked again: the decodes are the
            same requests, each one token longer every time; beside them, or alone, there may be one prompt,
            of which every time the next chunk of the same size is computed, never the last.
        padding: slots of requests that have ended but are computed all the same (static batching).
        images: images to run through the vision tower, and who asked for them first.
        encoded: requests that have all their embeddings after this batch (some found them in the cache).
        longest_kv: of the tokens that decode attention reads, those of the longest context.
    """

    def __init__(
        self,
        chunks: Sequence[Chunk] = (),
        decodes: int = 0,
        decode_kv: int = 0,
        repeat: int = 1,
        padding: int = 0,
        images: Sequence[tuple[Request, Image]] = (),
        encoded: Sequence[Request] = (),
        longest_kv: int = 0,
    ) -> None:
        self.chunks = chunks
        self.decodes = decodes
        self.decode_kv = decode_kv
        self.images = images
        self.encoded = encoded
        self.longest_kv = longest_kv
        self.padding = padding
        self.repeat = repeat
        sampled, tokens, kv, pairs = decodes, 0, 0, 0.0
        for _, size, history, last in chunks:
            tokens += size
            kv += history + size
            pairs += size * (history + 0.5 * (size + 1))
            if last:
                sampled += 1
        self.prefill_tokens = tokens
        """Prompt tokens."""
        self.prefill_kv = kv
        """Tokens of KV that the chunks' attention reads: history and own."""
        self.prefill_pairs = pairs
        """Query-key pairs of the chunks' causal attention."""
        self.sampled = sampled
        """Sequences for which a next token is computed (language-model head and sampler)."""

    @property
    def tokens(self) -> int:
        """Tokens that pass through the language model's layers in one iteration."""
        return self.prefill_tokens + self.decodes + self.padding
