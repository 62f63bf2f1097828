"""Server-sent events of the OpenAI API, as they come out of a socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from triptych.bench.answer import Answer

_DONE = b"[DONE]"
_FAILURES = ("abort", "error")
"""Finish reasons by which vLLM and SGLang say that they broke an answer off."""
_KEPT = 1 << 16
"""Bytes of a body without events that are kept, for what it says."""


class Events:
    """Cuts what comes into the data of events. One line of data is one event, as all servers send it."""

    def __init__(self) -> None:
        self._rest = b""
        self._seen = False
        self._body = b""

    @property
    def other(self) -> bytes:
        """The beginning of a body that holds no event at all; empty: there was an event."""
        return b"" if self._seen else self._body

    def feed(self, received: bytes) -> Iterator[bytes]:
        """The data of each event that is now complete."""
        if not self._seen and len(self._body) < _KEPT:
            self._body += received[:_KEPT]
        *lines, self._rest = (self._rest + received).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._seen = True
                yield line[5:].strip()


class Stream:
    """Reads the events of an answer into it."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._finished = False
        self._done = False

    def close(self) -> None:
        """The stream has ended.

        Raises:
            ValueError: the answer had not come to its end, or holds no token; what is said is for people.
        """
        if not (self._done or self._finished):
            raise ValueError("the stream ended before the answer did")
        self._answer.finish()

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
        else:  # half a character, a special token, or the end
            self._answer.event(now)
        if reason := choice.get("finish_reason"):
            self._finished = True
            if reason in _FAILURES:
                raise ValueError(f"the server ended the answer with finish_reason {reason!r}")

    def _count(self, usage: dict[str, Any]) -> None:
        self._answer.prompt_tokens = usage["prompt_tokens"]
        self._answer.output_tokens = usage["completion_tokens"]
        self._answer.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0


def not_a_stream(body: bytes) -> str:
    """What is wrong with an answer of status 200 that is no stream of events: the server's own words."""
    try:
        said: Any = json.loads(body)
    except ValueError:
        said = None
    if isinstance(said, dict) and "choices" in said:
        return "the server answered with plain JSON where a stream was asked for"
    return error_message(body.decode("utf-8", "replace") if said is None else said)


def error_message(body: object) -> str:
    """What a server says is wrong, from the JSON of its answer; OpenAI's form, FastAPI's, or any other."""
    if isinstance(body, dict):
        error = body.get("error") or body.get("detail") or body.get("message") or body
        if isinstance(error, dict):
            error = error.get("message") or error
        return str(error)
    return str(body)
