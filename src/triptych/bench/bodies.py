"""The bodies of requests: JSON, with exactly as many tokens as the workload says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from triptych.bench.images import Images
from triptych.bench.prompts import Prompts
from triptych.bench.server import Api
from triptych.bench.words import TokenIds, Words
from triptych.workload import Requests

PATHS: dict[Api, str] = {"completions": "/completions", "chat": "/chat/completions"}


@dataclass(frozen=True)
class Form:
    """How a server is asked, and how it counts."""

    model: str
    api: Api
    units: TokenIds | Words
    ignore_eos: bool
    overhead: int = 0
    """Tokens that the server adds to each prompt: its chat template, a first token."""
    tokens_per_unit: float = 1.0

    def length(self, tokens: int) -> int:
        """Units of a prompt that the server counts as so many tokens; at least one."""
        return max(round((tokens - self.overhead) / self.tokens_per_unit), 1)

    def made(self, tokens: int) -> int:
        """Tokens of the prompt that is made for so many."""
        return round(self.length(tokens) * self.tokens_per_unit) + self.overhead

    def body(self, units: Sequence[int], output_tokens: int) -> bytes:
        """A request of text alone."""
        content = json.dumps(self.units.spell(units), separators=(",", ":")).encode()
        if self.api == "completions":
            return self._whole(b'"prompt":' + content, output_tokens)
        return self._whole(b'"messages":[{"role":"user","content":' + content + b"}]", output_tokens)

    def body_with_images(
        self, prefix: Sequence[int], images: Sequence[bytes], rest: Sequence[int], output_tokens: int
    ) -> bytes:
        """A chat request: text, images, text."""
        parts = [self._text(prefix), *images, self._text(rest)]
        content = b",".join(part for part in parts if part)
        return self._whole(b'"messages":[{"role":"user","content":[' + content + b"]}]", output_tokens)

    def _text(self, units: Sequence[int]) -> bytes:
        if not units:
            return b""
        return json.dumps({"type": "text", "text": self.units.spell(units)}).encode()

    def _whole(self, prompt: bytes, output_tokens: int) -> bytes:
        options = {
            "model": self.model,
            "max_tokens": output_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.ignore_eos:
            options |= {"ignore_eos": True, "min_tokens": output_tokens}
        return json.dumps(options)[:-1].encode() + b"," + prompt + b"}"


class Bodies:
    """Makes the bodies of a workload; safe to use from several threads.

    Args:
        requests: of the workload.
        form: of the server.
        seed: of the contents.
    """

    def __init__(self, requests: Requests, form: Form, seed: int) -> None:
        self._requests = requests
        self._form = form
        self._prompts = Prompts(requests, seed, form.units.size)
        self._images = Images(requests, seed)
        self._counts = np.diff(requests.image_offsets)

    def __len__(self) -> int:
        return len(self._requests)

    def make(self, index: int) -> bytes:
        """The body of a request."""
        form, requests = self._form, self._requests
        output = int(requests.output_tokens[index])
        prefix, rest = self._prompts.parts(index, form.length(int(requests.text_tokens[index])))
        if self._counts[index]:
            return form.body_with_images(prefix.tolist(), self._images.parts(index), rest.tolist(), output)
        return form.body([*prefix.tolist(), *rest.tolist()], output)
