"""The fewest tokens of a text are never more than it has, whatever the tokenizer."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoConfig

from triptych.engine.server import lengths
from triptych.engine.server.lengths import Lengths
from triptych.engine.server.letters import byte_letters
from triptych.engine.tokenizer import make_tokenizer

SPACE = "\u2581"


def byte_level(*, composes: bool = False, strips: bool = False) -> Tokenizer:
    """As GPT-2's, Qwen's (NFC) and those with special tokens that take white space along."""
    space = "\u0120"
    merges = [(space, space), (space * 2, space * 2), ("a", "a"), ("aa", "aa"), ("\u00c3", "\u00a9")]
    vocabulary = byte_letters()
    for one, other in merges:
        vocabulary[one + other] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if composes:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens([AddedToken("<|aaa|>", lstrip=strips, rstrip=strips, normalized=False)])
    return tokenizer


def characters(*, fallback: bool = True, prefix: bool = True) -> Tokenizer:
    """As Llama 2's."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), SPACE, "a", "é"]
    merges = [("a", "a"), ("aa", "aa"), (SPACE, SPACE), (SPACE, "a")]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    for one, other in merges:
        vocabulary[one + other] = len(vocabulary)
    model = models.BPE(
        vocab=vocabulary, merges=merges, byte_fallback=fallback, unk_token="<unk>", fuse_unk=True
    )
    tokenizer = Tokenizer(model)
    marks = [normalizers.Replace(" ", SPACE)]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), *marks] if prefix else marks)
    tokenizer.add_special_tokens([AddedToken("<s>", normalized=False)])
    return tokenizer


def made() -> Tokenizer:
    return make_tokenizer(AutoConfig.for_model("gpt2", vocab_size=3000)).backend_tokenizer


KNOWN = {
    "byte level": byte_level,
    "composing": lambda: byte_level(composes=True),
    "stripping": lambda: byte_level(strips=True),
    "composing and stripping": lambda: byte_level(composes=True, strips=True),
    "characters": characters,
    "characters without prefix": lambda: characters(prefix=False),
    "made": made,
}


@cache
def tokenizer(name: str) -> tuple[Tokenizer, Lengths]:
    found = KNOWN[name]()
    return found, Lengths(found)


PIECES = st.sampled_from(
    ["a", "aaaa", " ", "    ", "\n", "\u3000", "<|aaa|>", "<s>", "<", SPACE, "é", "e\u0301",
     "\u03b1\u0313\u0300\u0345",
     "\u1100\u1161\u11a8", "漢", "😀", "<0x41>", "x", "\u0301"]
)  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
@settings(max_examples=150, deadline=None)
@given(text=st.lists(st.tuples(PIECES, st.integers(1, 60)), max_size=12))
def test_a_text_has_no_fewer_tokens(name: str, text: list[tuple[str, int]]) -> None:
    backend, found = tokenizer(name)
    whole = "".join(piece * count for piece, count in text)
    tokens = backend.encode(whole, add_special_tokens=False).ids
    for step in (7, 2**18):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lengths, "_STEP", step)
            assert found.fewest(whole) <= len(tokens)


@pytest.mark.parametrize("name", KNOWN)
def test_and_a_long_text_has_about_as_many(name: str) -> None:
    backend, found = tokenizer(name)
    text = "axx é 漢字 x" * 2000
    tokens = len(backend.encode(text, add_special_tokens=False).ids)
    assert found.fewest(text) > tokens / 9


@pytest.mark.parametrize(
    "unknown",
    [
        Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]")),
        Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")),
        characters(fallback=False),  # a run of unknown characters is one token
    ],
)
def test_nothing_is_known_where_a_token_may_stand_for_any_length(unknown: Tokenizer) -> None:
    assert Lengths(unknown).fewest("a" * 10_000) == 0


@pytest.mark.parametrize(
    ("normalizer", "before"),
    [
        (normalizers.NFKC(), None),
        (normalizers.Lowercase(), None),
        (normalizers.Replace("a", ""), None),
        (normalizers.Sequence([normalizers.NFC(), normalizers.Strip()]), None),
        (None, pre_tokenizers.Whitespace()),
        (None, pre_tokenizers.Split(" ", "removed")),
    ],
)
def test_nor_where_text_may_be_dropped(normalizer: object, before: object) -> None:
    found = byte_level()
    if normalizer is not None:
        found.normalizer = normalizer
    if before is not None:
        found.pre_tokenizer = pre_tokenizers.Sequence([before, found.pre_tokenizer])
    assert Lengths(found).fewest("a" * 10_000) == 0
