"""The made tokenizer: what a random model says is text, and as many tokens again."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from triptych.engine.tokenizer import load_tokenizer
from triptych.spec.base import SpecError

TOKENIZER = load_tokenizer("random:Qwen2.5-VL-3B")
FIRST_WORD = 257


@given(st.lists(st.integers(FIRST_WORD, 151_000), max_size=30))
@settings(max_examples=50)
def test_tokens_survive_text(tokens: list[int]) -> None:
    text = TOKENIZER.decode(tokens)
    assert text.isprintable()
    assert TOKENIZER.encode(text, add_special_tokens=False) == tokens


@given(st.text(alphabet=st.characters(exclude_characters="\u2581", exclude_categories=["Cs"]), max_size=50))
def test_every_text_can_be_encoded(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text, add_special_tokens=False)) == text


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
