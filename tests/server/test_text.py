"""Tokens become text in whole characters, and stop strings end it, however the tokens come."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from triptych.engine.messages import TokenLogprob
from triptych.engine.server.prompts import Vocabulary
from triptych.engine.server.text import Answer, Decode, Detokenizer, StopStrings

from .serving import byte_tokenizer

BYTES = Vocabulary(byte_tokenizer())


def sentencepiece() -> Decode:
    """A vocabulary of words that hold their leading space, and of bytes for all else, as Llama 2's."""
    words = ["\u2581Hello", "\u2581world", "ly", "\u2581", "!"]
    vocabulary = {word: number for number, word in enumerate(words)}
    vocabulary |= {f"<0x{byte:02X}>": len(words) + byte for byte in range(256)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return lambda tokens: str(backend.decode(tokens))


def pieces(decode: Decode, tokens: Sequence[int]) -> list[str]:
    detokenizer = Detokenizer(decode)
    return [*(detokenizer.add(token) for token in tokens), detokenizer.rest()]


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd")))
def test_a_character_comes_with_its_last_byte(text: str) -> None:
    found = pieces(BYTES.decode, text.encode())
    expected = [letter if last else "" for letter in text for last in [0] * (len(letter.encode()) - 1) + [1]]
    assert found == [*expected, ""]


@given(st.binary(max_size=40))
def test_bytes_that_are_no_character_come_out_too(data: bytes) -> None:
    assert "".join(pieces(BYTES.decode, data)) == data.decode(errors="replace")


@given(st.integers(min_value=9, max_value=40), st.text(max_size=5))
def test_garbage_does_not_hold_up_the_text_behind_it(garbage: int, text: str) -> None:
    found = "".join(pieces(BYTES.decode, b"\xff" * garbage + text.encode()))
    assert found == "\ufffd" * garbage + text


@given(st.lists(st.sampled_from(["\u2581Hello", "\u2581world", "ly", "!", "é", "€", "😀"]), max_size=12))
def test_a_word_keeps_the_space_before_it(parts: list[str]) -> None:
    words = {"\u2581Hello": 0, "\u2581world": 1, "ly": 2, "!": 4}
    tokens: list[int] = []
    for part in parts:
        tokens += [words[part]] if part in words else [5 + byte for byte in part.encode()]
    found = pieces(sentencepiece(), tokens)
    assert "".join(found) == "".join(parts).replace("\u2581", " ").removeprefix(" ")
    assert not any("\ufffd" in piece for piece in found)


def test_what_is_half_when_the_answer_ends_is_shown_as_such() -> None:
    assert pieces(BYTES.decode, "€".encode()[:2]) == ["", "", "\ufffd"]


def test_special_tokens_have_no_text() -> None:
    assert pieces(BYTES.decode, [256, 104, 257, 105, 256]) == ["", "h", "", "i", "", ""]


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text up to the stop string that is complete first."""
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


@given(
    st.lists(st.text("abc", min_size=1, max_size=3), max_size=8),
    st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_text_ends_before_the_first_stop_string_in_any_pieces(parts: list[str], stops: list[str]) -> None:
    stop = StopStrings(stops)
    shown, stopped = "", False
    for part in parts:
        text, stopped = stop.add(part)
        shown += text
        if stopped:
            break
        whole = "".join(parts)
        assert whole.startswith(shown)
    shown += stop.rest()
    assert (shown, stopped) == cut("".join(parts), stops)


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    stop = StopStrings(["\n\nUser:"])
    assert stop.add("fine.\n") == ("fine.", False)
    assert stop.add("then") == ("\nthen", False)
    assert stop.add("\n\nUs") == ("", False)
    assert stop.add("er: hi") == ("", True)


@pytest.mark.parametrize("group", [1, 2, 5, 100])
def test_an_answer_is_the_same_however_many_tokens_come_at_once(group: int) -> None:
    tokens = list("naïve STOP and more".encode())
    scores = [TokenLogprob(-0.1 * number, []) for number in range(len(tokens))]
    answer = Answer(BYTES.decode, ["STOP"])
    text, kept = "", []
    for start in range(0, len(tokens), group):
        piece = answer.add(tokens[start : start + group], None, scores[start : start + group])
        text += piece.text
        kept += piece.scores
        if answer.finish:
            break
    assert (text, answer.finish, answer.stopped) == ("naïve ", "stop", True)
    assert answer.tokens == len("naïve STOP".encode())
    assert [score.offset for score in kept] == [0, 1, 2, 2, 3, 4, 5]
    assert [score.logprob for score in kept] == scores[:7]


def test_the_token_that_ends_an_answer_is_counted_and_not_shown() -> None:
    answer = Answer(BYTES.decode)
    piece = answer.add([104, 105, 33], "stop", [TokenLogprob(-1.0, [])] * 3)
    assert (piece.text, answer.tokens, answer.finish) == ("hi", 3, "stop")
    assert len(piece.scores) == 3


def test_what_was_held_back_comes_at_the_end() -> None:
    answer = Answer(BYTES.decode, ["stop"])
    assert answer.add(list(b"non-st"), None).text == "non-"
    assert answer.add(list(b"o"), "length").text == "sto"


@pytest.mark.parametrize(
    ("token", "spelled"),
    [
        (104, ("h", b"h")),
        (32, (" ", b" ")),
        (0xE2, ("bytes:\\xe2", b"\xe2")),
        (256, ("<|end|>", b"<|end|>")),
    ],
)
def test_a_token_is_spelled_as_text_and_as_bytes(token: int, spelled: tuple[str, bytes]) -> None:
    assert BYTES.spell(token) == spelled
