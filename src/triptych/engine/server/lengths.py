"""How many tokens a text has at the least, told from its bytes: too long is known without making them.

Every byte of a text is part of one token. If each byte is given 1 / (bytes of the longest entry of the
vocabulary that it occurs in), no token comes to more than 1, so a text has at least as many tokens as its
bytes come to. That holds where a tokenizer drops and changes nothing. What it may do besides is allowed for
where it is known: composed characters (NFC) have at least a third of their bytes, and white space beside some
special tokens goes with these. Of tokenizers that do anything else nothing is known.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any
from unicodedata import is_normalized

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from triptych.engine.server.letters import byte_letters

_STEP = 2**18
"""Characters that are looked at in one go."""
_COMPOSED = 3
"""Bytes that become one by composing characters, at the most (Unicode's FAQ on normalisation)."""
_AT_A_CUT = 16.0
"""Bytes of four characters, which may become one: the longest canonical decomposition has so many."""
_ROUNDING = 1 - 1e-9
_SPACE_MARK = "\u2581"
"""What vocabularies of SentencePiece write for a space."""
_KEEP_ALL = ("ByteLevel", "Digits", "Metaspace", "Punctuation", "Split", "UnicodeScripts")


class Lengths:
    """Tells the fewest tokens of texts.

    Args:
        tokenizer: that makes them.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        declared = json.loads(tokenizer.to_str())
        normalizers = list(_steps(declared["normalizer"], "normalizers"))
        self._composes = any(step["type"] == "NFC" for step in normalizers)
        pieces = _pieces(tokenizer, declared, normalizers)
        longest = np.ones(256)
        for piece in pieces or ():
            used = list(set(piece))
            longest[used] = np.maximum(longest[used], len(piece))
        self._weights: NDArray[np.float64] = 1 / longest if pieces else np.zeros(256)
        if any(token.lstrip or token.rstrip for token in tokenizer.get_added_tokens_decoder().values()):
            self._weights[list(_white_space())] = 0

    def fewest(self, text: str) -> int:
        """Tokens of a text at the least; 0: nothing is known."""
        total = 0.0
        for begin in range(0, len(text), _STEP):
            piece = text[begin : begin + _STEP]
            data = np.frombuffer(piece.encode("utf-8", "surrogatepass"), np.uint8)
            if not self._composes:
                total += self._sum(data)
            elif piece.isascii() or is_normalized("NFC", piece):
                total += self._sum(data) - _AT_A_CUT
            else:
                total += len(data) * float(self._weights.min()) / _COMPOSED - _AT_A_CUT
        return max(int(total * _ROUNDING), 0)

    def _sum(self, data: NDArray[np.uint8]) -> float:
        return float(np.bincount(data, minlength=256) @ self._weights)


def _pieces(tokenizer: Tokenizer, declared: Any, normalizers: list[Any]) -> list[bytes] | None:
    """What the tokens stand for in a text; None: not known, or there is text that no token stands for."""
    model, before = declared["model"], list(_steps(declared["pre_tokenizer"], "pretokenizers"))
    known = model["type"] in ("BPE", "Unigram") and not (
        model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
    )
    if not known or any(
        step["type"] not in _KEEP_ALL or step.get("behavior") == "Removed" for step in before
    ):
        return None
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    added = [token.content.encode() for token in tokenizer.get_added_tokens_decoder().values()]
    if any(step["type"] == "ByteLevel" for step in before):
        letters = byte_letters()
        if not vocabulary.keys() >= letters.keys() or any(step["type"] != "NFC" for step in normalizers):
            return None
        spelled = [piece for piece in vocabulary if all(letter in letters for letter in piece)]
        return added + [bytes(letters[letter] for letter in piece) for piece in spelled]
    if not model.get("byte_fallback") or not vocabulary.keys() >= {f"<0x{byte:02X}>" for byte in range(256)}:
        return None
    if not all(_keeps(step) for step in normalizers):
        return None
    # A mark stands for a space, or for itself where a text has it: as long as it, and of the bytes of both.
    marked = [(piece.encode(), _SPACE_MARK in piece) for piece in [*vocabulary, *map(bytes.decode, added)]]
    return [data for data, _ in marked] + [data[:-1] + b" " for data, mark in marked if mark]


def _keeps(normalizer: Any) -> bool:
    """Whether a step keeps all of a text that is written in whole characters."""
    if normalizer["type"] == "Replace":
        return bool(normalizer["pattern"] == {"String": " "} and normalizer["content"] == _SPACE_MARK)
    return normalizer["type"] in ("NFC", "Prepend")


def _steps(part: Any, name: str) -> Iterator[Any]:
    """The steps of a part of a tokenizer, which may be sequences of sequences."""
    if part is None:
        return
    if part["type"] != "Sequence":
        yield part
        return
    for step in part[name]:
        yield from _steps(step, name)


def _white_space() -> set[int]:
    """Bytes that occur in white space."""
    return {byte for code in range(sys.maxunicode) if chr(code).isspace() for byte in chr(code).encode()}
