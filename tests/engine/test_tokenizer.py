"""The made tokenizer: what a random model says is text, and as many tokens again."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from triptych.engine.server.prompts import Vocabulary
from triptych.engine.server.text import Answer
from triptych.engine.tokenizer import load_tokenizer
from triptych.spec.base import SpecError

TOKENIZER = load_tokenizer("random:Qwen2.5-VL-3B")
VOCABULARY = Vocabulary(TOKENIZER)
FIRST_WORD = 257
ODD = ("\u2581", "<0xC3>", "<unk>", "\ufffd", "\u0120", " ", "\r\n", "é", "日本", "😀")
"""What vocabularies write bytes, spaces and unknown characters with, and what has several bytes."""

texts = st.lists(st.sampled_from(ODD) | st.text(max_size=8), max_size=8).map("".join)
words = st.integers(FIRST_WORD, 151_000).map(lambda token: [token])
letters = st.characters(min_codepoint=0x80, exclude_categories=["Cs"])


@given(st.lists(st.integers(FIRST_WORD, 151_000), max_size=30))
@settings(max_examples=50)
def test_tokens_survive_text(tokens: list[int]) -> None:
    text = TOKENIZER.decode(tokens)
    assert text.isprintable()
    assert TOKENIZER.encode(text, add_special_tokens=False) == tokens


@given(texts)
def test_every_text_comes_back_as_it_was(text: str) -> None:
    tokens = TOKENIZER.encode(text, add_special_tokens=False)
    assert TOKENIZER.decode(tokens) == text
    assert VOCABULARY.encode(text, special=True) == tokens


@given(texts.filter(lambda text: not any(token in text for token in TOKENIZER.all_special_tokens)))
def test_every_text_comes_back_token_by_token(text: str) -> None:
    answer = Answer(VOCABULARY.decode)
    tokens = VOCABULARY.encode(text, special=False)
    streamed = "".join(answer.add([token], None).text for token in tokens)
    assert streamed + answer.add([], "length").text == text


@given(st.lists(words | letters.map(lambda letter: VOCABULARY.encode(letter, special=False)), max_size=20))
def test_words_and_characters_of_several_bytes_are_the_same_tokens_again(parts: list[list[int]]) -> None:
    tokens = [token for part in parts for token in part]
    assert VOCABULARY.encode(VOCABULARY.decode(tokens), special=False) == tokens


def test_every_byte_is_a_token_and_is_one_again() -> None:
    """Those that are no character alone read as U+FFFD."""
    found = [VOCABULARY.spell(token)[1] for token in range(256)]
    assert sorted(found) == [bytes([value]) for value in range(256)]
    lengths = [len(VOCABULARY.encode(VOCABULARY.decode([token]), special=False)) for token in range(256)]
    assert lengths == [1] * 256


def test_special_tokens_are_those_of_the_configuration() -> None:
    assert len(TOKENIZER) == 151_936
    assert TOKENIZER.eos_token_id == 151_645
    assert TOKENIZER.convert_tokens_to_ids("<|image_pad|>") == 151_655
    assert TOKENIZER.decode([151_645, 300], skip_special_tokens=True) == TOKENIZER.decode([300])


def test_a_conversation_with_an_image_has_one_placeholder() -> None:
    content = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
    text = TOKENIZER.apply_chat_template(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>What is this?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert TOKENIZER.encode(text).count(151_655) == 1


def test_clients_can_load_it_from_a_folder(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.encode("some words") == TOKENIZER.encode("some words")
    assert again.chat_template == TOKENIZER.chat_template


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "opt"}')
    with pytest.raises(SpecError, match="tokenizer"):
        load_tokenizer(str(tmp_path))


def test_a_vocabulary_without_room_for_bytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "opt", "vocab_size": 200}')
    with pytest.raises(SpecError, match="no room for the 256 bytes") as caught:
        load_tokenizer(f"random:{tmp_path}")
    assert len(str(caught.value).splitlines()) == 1
