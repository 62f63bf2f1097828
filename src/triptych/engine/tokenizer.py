"""The tokenizer of a model: that of its checkpoint, or one made on the spot for random weights.

The made one has the 256 bytes, so that every text comes back as it was, and a word for each token that is
left, so that whatever a random model says is text, and is as many tokens when a client encodes it again. Its
conversations look like ChatML, as those of the Qwen models do.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from string import ascii_lowercase

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerFast

from triptych.engine.loader import RANDOM, read_config
from triptych.spec.base import SpecError

_BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
"""The letters that bytes are written with in pieces, one each."""
_SPACE = "\u0120"
"""That of a space."""
_REPLACEMENT = "\u00ef\u00bf\u00bd"
"""U+FFFD, which a byte reads as that is no character: one token, as the byte was."""
_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == "text" -%}{{ part.text }}
{%- else -%}<|vision_start|><|image_pad|><|vision_end|>{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}
"""


def load_tokenizer(
    name: str, *, field: str = "model", file: str | Path | None = None
) -> PreTrainedTokenizerFast:
    """The tokenizer of a model.

    Args:
        name: as in `loader.load`.
        field: where the name was written, for errors.
        file: likewise.

    Raises:
        SpecError: there is no such model, no tokenizer in its folder, or no room for a made one.
    """
    config = read_config(name, field=field, file=file)
    if name.startswith(RANDOM):
        try:
            return make_tokenizer(config)
        except ValueError as error:
            raise SpecError(field, f"{name}: {error}", file=file) from None
    if not any(Path(name, file_name).is_file() for file_name in _FILES):
        raise SpecError(field, f"{name} has no tokenizer: none of {', '.join(_FILES)}", file=file)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError) as error:
        problem = f"{name} has no tokenizer that can be read: {str(error).splitlines()[0]}"
        raise SpecError(field, problem, file=file) from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise SpecError(field, f"{name} has no fast tokenizer (tokenizer.json); add one", file=file)
    return tokenizer


def make_tokenizer(config: PretrainedConfig) -> PreTrainedTokenizerFast:
    """A tokenizer for a model of which only the shape is known.

    Raises:
        ValueError: the vocabulary has no room for all bytes.
    """
    vocabulary = config.get_text_config().vocab_size
    special = _special_tokens(config, vocabulary)
    if vocabulary < len(_BYTES) + len(special):
        raise ValueError(
            f"a vocabulary of {vocabulary} tokens has no room for the 256 bytes; use a larger one"
        )
    plain = iter([*_BYTES, _REPLACEMENT, *islice(_words(), vocabulary)])
    pieces = [special.get(token) or next(plain) for token in range(vocabulary)]
    # The more pieces, the worse the score; so a text is split into as few as there are.
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(" ", "merged_with_next"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in special.values()]
    )
    end = special.get(_first(config, "eos_token_id"))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=end or "<|im_end|>",
        pad_token="<|pad|>",
        chat_template=_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _special_tokens(config: PretrainedConfig, vocabulary: int) -> dict[int, str]:
    """Tokens that are no text: where the configuration has them, the others at the end of the vocabulary."""
    named = {
        "<|im_end|>": "eos_token_id",
        "<|endoftext|>": "bos_token_id",
        "<|pad|>": "pad_token_id",
        "<|vision_start|>": "vision_start_token_id",
        "<|vision_end|>": "vision_end_token_id",
        "<|image_pad|>": "image_token_id",
        "<|im_start|>": "",
    }
    found: dict[int, str] = {}
    for text, field in named.items():
        token = _first(config, field)
        if 0 <= token < vocabulary and token not in found:
            found[token] = text
    free = (token for token in reversed(range(vocabulary)) if token not in found)
    for text in named:
        if text not in found.values():
            found[next(free)] = text
    return found


def _first(config: PretrainedConfig, field: str) -> int:
    """A token that the configuration names, the first if there are several; -1: none."""
    for source in (config, config.get_text_config()):
        token = getattr(source, field, None) if field else None
        if token is not None:
            return int(token[0] if isinstance(token, list) else token)
    return -1


def _words() -> Iterator[str]:
    """Words with the space before them: `a`, `b`, ..., `aa`, ..."""
    length = 1
    while True:
        for letters in product(ascii_lowercase, repeat=length):
            yield _SPACE + "".join(letters)
        length += 1
