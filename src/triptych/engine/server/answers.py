"""What the OpenAI API answers: whole, and in the chunks of a stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import time
from typing import Any, Protocol

import msgspec

from triptych.engine.server.errors import ApiError
from triptych.engine.server.text import Answer, Piece, TokenScore

encode = msgspec.json.encode
_LEAST = -9999.0
"""Stands for minus infinity, which JSON does not have."""
DONE = b"data: [DONE]\n\n"

Spell = Callable[[int], tuple[str, bytes]]
"""A token as text, and as bytes."""


def event(data: object) -> bytes:
    """One server-sent event."""
    return b"data: " + encode(data) + b"\n\n"


def failure(error: ApiError) -> bytes:
    """An error in the midst of a stream, and its end."""
    return event(error.body()) + DONE


@dataclass
class Usage:
    """Token counts of a request."""

    prompt: int
    completion: int = 0
    cached: int = 0

    def body(self) -> dict[str, Any]:
        """As OpenAI writes them."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


class Shape(Protocol):
    """How one of the two routes words its answers."""

    def begin(self, answer: Answer, usage: Usage | None) -> bytes:
        """Comes before the first chunk of an answer in a stream.

        Args:
            answer: that begins.
            usage: of the answer so far, where every chunk has it.
        """
        ...

    def chunk(self, answer: Answer, piece: Piece, usage: Usage | None) -> bytes:
        """The next chunk of an answer in a stream; `usage` as of `begin`."""
        ...

    def usage(self, usage: Usage) -> bytes:
        """The chunk with the token counts, and no choices."""
        ...

    def whole(self, answers: Sequence[tuple[Answer, Piece]], usage: Usage) -> bytes:
        """All at once."""
        ...


class _Base:
    def __init__(self, id: str, model: str, *, spell: Spell, scored: bool, counted: bool) -> None:
        self._spell = spell
        self._scored = scored
        self._head = {"id": id, "object": "", "created": int(time()), "model": model}
        self._tail: dict[str, Any] = {"usage": None} if counted else {}
        """A stream that ends with token counts has the field in every chunk."""

    def _event(self, kind: str, choices: list[dict[str, Any]], usage: Usage | None) -> bytes:
        tail = self._tail if usage is None else {"usage": usage.body()}
        return event({**self._head, "object": kind, "choices": choices, **tail})


class Chat(_Base):
    """The answers of /v1/chat/completions.

    Args:
        id: of the request.
        model: as the request calls it.
        spell: what a token reads as.
        scored: whether log-probabilities were asked for.
        counted: whether a stream ends with token counts.
    """

    _KIND = "chat.completion.chunk"

    def __init__(self, id: str, model: str, *, spell: Spell, scored: bool, counted: bool) -> None:
        super().__init__(f"chatcmpl-{id}", model, spell=spell, scored=scored, counted=counted)

    def begin(self, answer: Answer, usage: Usage | None) -> bytes:
        choice = _choice(answer.index, {"role": "assistant", "content": ""}, None, None)
        return self._event(self._KIND, [choice], usage)

    def chunk(self, answer: Answer, piece: Piece, usage: Usage | None) -> bytes:
        delta = {"content": piece.text} if piece.text else {}
        scores = self._scores(piece.scores) if piece.scores else None
        return self._event(self._KIND, [_choice(answer.index, delta, scores, answer.finish)], usage)

    def usage(self, usage: Usage) -> bytes:
        return self._event(self._KIND, [], usage)

    def whole(self, answers: Sequence[tuple[Answer, Piece]], usage: Usage) -> bytes:
        choices = [
            {
                "index": answer.index,
                "message": {"role": "assistant", "content": piece.text, "refusal": None},
                "logprobs": self._scores(piece.scores) if self._scored else None,
                "finish_reason": answer.finish,
            }
            for answer, piece in answers
        ]
        return encode({**self._head, "object": "chat.completion", "choices": choices, "usage": usage.body()})

    def _scores(self, scores: Sequence[TokenScore]) -> dict[str, Any]:
        content = []
        for score in scores:
            entry = self._token(score.token, score.logprob.logprob)
            entry["top_logprobs"] = [self._token(token, value) for token, value in score.logprob.top]
            content.append(entry)
        return {"content": content, "refusal": None}

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        text, data = self._spell(token)
        return {"token": text, "logprob": max(logprob, _LEAST), "bytes": list(data)}


def _choice(index: int, delta: dict[str, str], scores: object, finish: str | None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": scores, "finish_reason": finish}


class Completion(_Base):
    """The answers of /v1/completions; arguments as of `Chat`."""

    _KIND = "text_completion"

    def __init__(self, id: str, model: str, *, spell: Spell, scored: bool, counted: bool) -> None:
        super().__init__(f"cmpl-{id}", model, spell=spell, scored=scored, counted=counted)

    def begin(self, answer: Answer, usage: Usage | None) -> bytes:
        return b""

    def chunk(self, answer: Answer, piece: Piece, usage: Usage | None) -> bytes:
        return self._event(self._KIND, [self._choice(answer, piece)], usage)

    def usage(self, usage: Usage) -> bytes:
        return self._event(self._KIND, [], usage)

    def whole(self, answers: Sequence[tuple[Answer, Piece]], usage: Usage) -> bytes:
        choices = [self._choice(answer, piece) for answer, piece in answers]
        return encode({**self._head, "object": self._KIND, "choices": choices, "usage": usage.body()})

    def _choice(self, answer: Answer, piece: Piece) -> dict[str, Any]:
        return {
            "index": answer.index,
            "text": piece.text,
            "logprobs": self._scores(piece.scores) if self._scored else None,
            "finish_reason": answer.finish,
        }

    def _scores(self, scores: Sequence[TokenScore]) -> dict[str, Any]:
        return {
            "tokens": [self._spell(score.token)[0] for score in scores],
            "token_logprobs": [max(score.logprob.logprob, _LEAST) for score in scores],
            "top_logprobs": [
                {
                    self._spell(token)[0]: max(value, _LEAST)
                    # With the token itself, as OpenAI has it: one more than asked for where it is unlikely.
                    for token, value in [*score.logprob.top, (score.token, score.logprob.logprob)]
                }
                for score in scores
            ],
            "text_offset": [score.offset for score in scores],
        }
