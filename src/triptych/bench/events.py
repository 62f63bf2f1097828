"""Server-sent events of the OpenAI API, as they come out of a socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from triptych.bench.answer import Answer

_DONE = b"[DONE]"


class Events:
    """Cuts what comes into the data of events. One line of data is one event, as all servers send it."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, received: bytes) -> Iterator[bytes]:
        """The data of each event that is now complete."""
        *lines, self._rest = (self._rest + received).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


class Stream:
    """Reads the events of an answer into it."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._finished = False
        self._done = False

    @property
    def complete(self) -> bool:
        """Whether the answer has come to its end."""
        return self._done or self._finished

    def take(self, data: bytes, now: float) -> None:
        """Reads one event.

        Raises:
            ValueError: it is not what the API sends, or tells of an error; what is said is for people.
        """
        if data == _DONE:
            self._done = True
            return
        try:
            event = json.loads(data)
            error, usage, choices = event.get("error"), event.get("usage"), event.get("choices")
            if error:
                raise ValueError(error_message(event))
            if usage:
                self._count(usage)
            if choices:
                self._read(choices[0], now)
        except (AttributeError, KeyError, TypeError, json.JSONDecodeError):
            raise ValueError(f"unreadable event {data[:80]!r}") from None

    def _read(self, choice: dict[str, Any], now: float) -> None:
        if "delta" in choice:
            delta = choice["delta"] or {}
            text = delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning")
        else:
            text = choice.get("text")
        if text:
            self._answer.token(now)
        if choice.get("finish_reason"):
            self._finished = True
            if not self._answer.events:  # tokens without text: half a character, special ones
                self._answer.token(now)

    def _count(self, usage: dict[str, Any]) -> None:
        self._answer.prompt_tokens = usage["prompt_tokens"]
        self._answer.output_tokens = usage["completion_tokens"]
        self._answer.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0


def error_message(body: object) -> str:
    """What a server says is wrong, from the JSON of its answer; OpenAI's form, FastAPI's, or any other."""
    if isinstance(body, dict):
        error = body.get("error") or body.get("detail") or body.get("message") or body
        if isinstance(error, dict):
            error = error.get("message") or error
        return str(error)
    return str(body)
