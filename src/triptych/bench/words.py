"""Units that prompts are made of: token ids, or words that are one token each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from triptych.spec.base import SpecError


@dataclass(frozen=True)
class TokenIds:
    """Token ids, one after the other."""

    low: int
    size: int

    def spell(self, units: Sequence[int]) -> list[int]:
        """Units, numbers from 0 to `size`, as a prompt."""
        return [self.low + unit for unit in units]


@dataclass(frozen=True)
class Words:
    """Words of text."""

    words: tuple[str, ...]
    separator: str = " "

    @property
    def size(self) -> int:
        """Different units."""
        return len(self.words)

    def spell(self, units: Sequence[int]) -> str:
        """Units, numbers from 0 to `size`, as a prompt."""
        return self.separator.join([self.words[unit] for unit in units])


ID_RANGES = (TokenIds(1000, 9000), TokenIds(100, 150))
"""Ids that are plain text in vocabularies of today, where special tokens come first or last; and for toys."""
LETTERS = Words(tuple(ascii_lowercase), "")
_COMMON = (
    "the of and to in is that for on with as was at by be this from or are it not but have an they "
    "which one you were all her she there would their we him been has when who will no more if out "
    "so up said what its about than into them can only other time new some could these two may first "
    "then do"
)
COMMON_WORDS = Words(tuple(_COMMON.split()))
"""Words that vocabularies learn first: one token each in most."""
_FEWEST, _MOST = 64, 4096


def text_units(tokenizer: Path | None) -> tuple[Words, ...]:
    """What texts may be made of, best first; the server's own count decides.

    Args:
        tokenizer: folder with a `tokenizer.json`.

    Raises:
        SpecError: there is none, or it cannot be read.
    """
    if tokenizer is None:
        return COMMON_WORDS, LETTERS
    words = _single_tokens(_load(tokenizer))
    return (Words(words), LETTERS) if len(words) >= _FEWEST else (LETTERS, COMMON_WORDS)


def _load(folder: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        problem = "needs the package tokenizers; pip install tokenizers"
        raise SpecError("--tokenizer", problem) from None
    file = folder / "tokenizer.json" if folder.is_dir() else folder
    if not file.is_file():
        raise SpecError("--tokenizer", "no such file; name the folder that holds it", file=file)
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise SpecError("--tokenizer", f"cannot be read: {error}", file=file) from None


def _single_tokens(tokenizer: Any) -> tuple[str, ...]:
    """Words that are one token both at the start of a text and after a space."""
    pieces = {piece.lstrip("\u0120\u2581 ") for piece in tokenizer.get_vocab()}
    words = sorted(piece for piece in pieces if piece.isascii() and piece.islower() and piece.isalpha())
    alone = tokenizer.encode_batch(words, add_special_tokens=False)
    words = [word for word, encoded in zip(words, alone, strict=True) if len(encoded) == 1]
    pairs = tokenizer.encode_batch([f"{word} {word}" for word in words], add_special_tokens=False)
    return tuple(word for word, encoded in zip(words, pairs, strict=True) if len(encoded) == 2)[:_MOST]
