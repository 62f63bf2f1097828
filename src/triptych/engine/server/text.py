"""From tokens to text as they come: whole characters only, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from triptych.engine.messages import Finish, TokenLogprob

Decode = Callable[[Sequence[int]], str]
"""Text of tokens; bytes that are no character, or not yet one, come out as U+FFFD."""

_HALF = "\ufffd"
_PATIENCE = 8
"""Tokens without an end of a character after which they are taken for what they are: bytes that never
become one. A character has at most four bytes."""
_LONGEST = 3
"""Tokens that may still be the beginning of a character."""


class Detokenizer:
    """Text of a growing list of tokens, in pieces that never end within a character.

    What a token reads as may depend on those before it (a leading space, the rest of a character), so each
    piece is what the last tokens, decoded together with those of the piece before, add to these.

    Args:
        decode: text of tokens.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._before: list[int] = []
        """Tokens of the last piece."""
        self._pending: list[int] = []
        """Tokens since then."""

    def add(self, token: int) -> str:
        """Text that has become whole with this token."""
        self._pending.append(token)
        text = self._new_text()
        if text and not text.endswith(_HALF):
            self._settle(len(self._pending))
            return text
        if len(self._pending) > _PATIENCE:
            later = self._pending[-_LONGEST:]
            del self._pending[-_LONGEST:]
            text = self._new_text()
            self._settle(len(self._pending))
            self._pending = later
            return text
        return ""

    def rest(self) -> str:
        """Text that was held back, when nothing more will come."""
        text = self._new_text()
        self._settle(len(self._pending))
        return text

    def _new_text(self) -> str:
        return self._decode(self._before + self._pending)[len(self._decode(self._before)) :]

    def _settle(self, count: int) -> None:
        self._before, self._pending = self._pending[:count], self._pending[count:]


class StopStrings:
    """Cuts text at the first of some strings to be complete; what may become one is held back.

    Args:
        stops: not empty each.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._longest = max(map(len, stops), default=1)
        self._held = ""

    def add(self, text: str) -> tuple[str, bool]:
        """Text to pass on, and whether a stop string has been found behind it."""
        if not self._stops:
            return text, False
        text = self._held + text
        ends = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            self._held = ""
            return text[: min(ends)[1]], True
        held = self._beginning(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False

    def rest(self) -> str:
        """Text that was held back, when nothing more will come."""
        text, self._held = self._held, ""
        return text

    def _beginning(self, text: str) -> int:
        """Characters at the end that a stop string may begin with."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            tail = text[len(text) - length :]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0


@dataclass(frozen=True)
class TokenScore:
    """A token of the answer with its log-probability."""

    token: int
    logprob: TokenLogprob
    offset: int
    """Characters of the answer before it."""


@dataclass
class Piece:
    """What is new of an answer."""

    text: str = ""
    scores: list[TokenScore] = field(default_factory=list)


class Answer:
    """One answer in the making.

    Args:
        decode: text of tokens.
        stops: strings that end it.
        index: its place among the answers of its request.
    """

    def __init__(self, decode: Decode, stops: Sequence[str] = (), index: int = 0) -> None:
        self.index = index
        self._decode = decode
        self._stops = stops
        self.reset()

    def reset(self) -> None:
        """Forgets everything, to begin again."""
        self.finish: Finish | None = None
        self.stopped = False
        """Whether it ended with a stop string, of which the worker knows nothing."""
        self.tokens = 0
        """Output tokens, that which ended it included."""
        self._detokenizer = Detokenizer(self._decode)
        self._stop = StopStrings(self._stops)
        self._length = 0
        """Characters so far, those held back included."""
        self._sent = 0
        self._scores: list[TokenScore] = []
        """Of tokens whose text is not passed on yet."""

    def add(
        self, tokens: Sequence[int], finish: Finish | None, logprobs: Sequence[TokenLogprob] | None = None
    ) -> Piece:
        """Takes in what the worker has sent.

        Args:
            tokens: new tokens.
            finish: why these are the last; `stop`: a token that ends it, and is no part of its text.
            logprobs: one for each token.
        """
        piece = Piece()
        for number, token in enumerate(tokens):
            self.tokens += 1
            if logprobs is not None:
                self._scores.append(TokenScore(token, logprobs[number], self._length))
            if finish == "stop" and number == len(tokens) - 1:
                break
            if self._pass_on(piece, self._detokenizer.add(token)):
                return piece
        if finish is not None and not self._pass_on(piece, self._detokenizer.rest()):
            self.finish = finish
            piece.text += self._stop.rest()
            piece.scores += self._scores
            self._scores = []
        return piece

    def _pass_on(self, piece: Piece, text: str) -> bool:
        """Adds text to a piece; whether a stop string ended the answer."""
        if not text:
            return False
        self._length += len(text)
        whole, stopped = self._stop.add(text)
        piece.text += whole
        self._sent += len(whole)
        if stopped:
            self.finish, self.stopped = "stop", True
        while self._scores and self._scores[0].offset < self._sent:
            piece.scores.append(self._scores.pop(0))
        return stopped
