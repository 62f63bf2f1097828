"""From messages, texts and images to what goes into the model."""

from __future__ import annotations

import gc
import inspect
import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from triptych.engine.messages import ImageInput
from triptych.engine.server.client import Prompt
from triptych.engine.server.errors import context_exceeded, invalid
from triptych.engine.server.fetch import ImageSource, read_data_url
from triptych.engine.server.lengths import Lengths
from triptych.engine.server.letters import byte_letters
from triptych.engine.server.pool import Pool
from triptych.engine.server.protocol import ImagePart, Message, ToolCall

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

T = TypeVar("T")

_SHORT = 16 * 1024
"""Characters up to which counting the tokens that a text has at the least is not worth it."""
_MAX_IMAGES = 128


class Images(Protocol):
    """Reads images for a model."""

    @property
    def placeholder(self) -> int:
        """The token that stands for an image in the prompt; it is repeated for every embedding."""
        ...

    def tokens(self, file: bytes) -> int:
        """Embeddings of an image, told without reading all of it.

        Raises:
            ValueError: it is no image, or too large.
        """
        ...

    def read(self, file: bytes) -> ImageInput:
        """An image file as the model's input.

        Raises:
            ValueError: it is no image, or too large.
        """
        ...


class Vocabulary:
    """A tokenizer, as far as a server needs it; safe to use from several threads.

    Args:
        tokenizer: of the model.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._spelled: dict[int, tuple[str, bytes]] = {}
        self._lengths = Lengths(self._backend)
        self._template_arguments = set(inspect.signature(tokenizer.apply_chat_template).parameters)

    def encode(self, text: str, *, special: bool, room: int | None = None) -> list[int]:
        """Tokens of a text; with `special` also those that a text begins or ends with.

        Args:
            text: of any length; other threads run meanwhile.
            special: whether to add these.
            room: tokens that a prompt must have fewer than.

        Raises:
            ApiError: status 400: there is no room, which is found before the tokens are made where it can be.
        """
        if room is not None and len(text) > _SHORT:
            fewest = self._lengths.fewest(text)
            if fewest >= room:
                raise context_exceeded(room, fewest, at_least=True)
        (encoding,) = self._backend.encode_batch_fast([text], add_special_tokens=special)
        return list(encoding.ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens; special tokens have none."""
        return str(self._backend.decode(tokens, skip_special_tokens=True))

    def write(self, tokens: Sequence[int]) -> str:
        """Text of tokens, special ones included; other threads run meanwhile."""
        (text,) = self._backend.decode_batch([list(tokens)], skip_special_tokens=False)
        return str(text)

    def spell(self, token: int) -> tuple[str, bytes]:
        r"""One token as text, and as bytes; half a character is written ``bytes:\xe2\x82``."""
        found = self._spelled.get(token)
        if found is None:
            found = self._spelled[token] = self._spell(token)
        return found

    def render(self, messages: Sequence[Message], options: dict[str, Any], tools: Any = None) -> str:
        """A conversation as text, as the model's chat template has it, which may tell of tools.

        Raises:
            ApiError: status 400: there is no template, or it does not take these messages.
        """
        reserved = self._template_arguments & set(options)
        if reserved:
            raise invalid(
                f"chat_template_kwargs: {sorted(reserved)[0]} cannot be set", "chat_template_kwargs"
            )
        if self._tokenizer.chat_template is None:
            raise invalid("the model has no chat template; use /v1/completions", "messages")
        try:
            text = self._tokenizer.apply_chat_template(
                [_template_message(message) for message in messages],
                tokenize=False,
                add_generation_prompt=True,
                tools=tools or None,
                **options,
            )
        except Exception as error:  # a template is a program, and its input is the client's
            problem = str(error) or type(error).__name__
            raise invalid(f"the chat template does not take these messages: {problem}", "messages") from None
        return str(text)

    def _spell(self, token: int) -> tuple[str, bytes]:
        text = str(self._backend.decode([token], skip_special_tokens=False))
        piece = self._backend.id_to_token(token) or ""
        if "\ufffd" not in text:
            if piece.startswith("\u2581") and not text.startswith(" "):
                text = f" {text}"  # decoded alone, a word loses the space before it
            return text, text.encode()
        data = _raw_bytes(piece)
        if data is None:
            return text, text.encode()
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data), data


Load = Callable[[], tuple[Vocabulary, Images | None]]
"""Loads a model's tokenizer, and what reads its images; None: it takes none. This takes seconds."""


class Prompts:
    """Makes prompts, once the tokenizer is loaded.

    Args:
        source: gets images.
        pool: threads for what takes long.
        max_bytes: of the images of one request together.
    """

    vocabulary: Vocabulary
    """The model's."""

    def __init__(self, source: ImageSource, pool: Pool, max_bytes: int) -> None:
        self.loaded = False
        self._images: Images | None = None
        self._source = source
        self._pool = pool
        self._max_bytes = max_bytes

    async def load(self, load: Load) -> None:
        """Loads what it takes, which it does not do twice."""
        self.vocabulary, self._images = await self._pool.run(load)
        gc.freeze()  # what is there by now stays: large requests need not have it all looked through again
        self.loaded = True

    async def of_text(self, text: str | list[int], room: int, *, special: bool) -> Prompt:
        """A prompt of /v1/completions; arguments and errors as of `Vocabulary.encode`."""
        if isinstance(text, list):
            return Prompt(text)
        return Prompt(await self._encode(text, room, special=special))

    async def of_messages(
        self,
        messages: Sequence[Message],
        options: dict[str, Any],
        room: int,
        *,
        special: bool,
        size: int,
        tools: Any = None,
    ) -> tuple[Prompt, list[ImageInput]]:
        """A prompt of /v1/chat/completions, and the pixels of its images.

        Args:
            messages: the conversation.
            options: switches of the chat template.
            room: tokens that there is room for.
            special: as of `Vocabulary.encode`.
            size: bytes that messages, options and tools were sent in, at the most.
            tools: of which the chat template tells the model.

        Raises:
            ApiError: status 400.
        """
        urls = [url for message in messages for url in _image_urls(message)]
        if urls and self._images is None:
            raise invalid("the model takes no images", "messages", "unsupported_parameter")
        if len(urls) > _MAX_IMAGES:
            raise invalid(f"{len(urls)} images are more than {_MAX_IMAGES}", "messages")
        if len(messages) >= room:  # none is without a token
            raise context_exceeded(room, len(messages), at_least=True)
        text = await self._pool.fit(size, self.vocabulary.render, messages, options, tools)
        tokens = await self._encode(text, room, special=special)
        if not urls:
            return Prompt(tokens), []
        if len(tokens) > room:
            return Prompt(tokens), []  # it is refused whatever its images are
        files: list[bytes] = []
        for url in urls:
            files.append(await self._file(url))
            if sum(map(len, files)) > self._max_bytes:
                problem = f"the images are larger than {self._max_bytes:,} bytes together"
                raise invalid(problem, "messages", "invalid_image")
        assert self._images is not None
        taken = 0
        for number, file in enumerate(files):
            taken += await self._image(self._images.tokens, file, number)
            if taken > room:
                problem = (
                    f"This model's maximum context length is {room} tokens; the images alone take more: "
                    "send fewer or smaller ones"
                )
                raise invalid(problem, "messages", "context_length_exceeded")
        images = await self.read_images(files)
        return Prompt(expand(tokens, images, self._images.placeholder), files), images

    async def read_images(self, files: list[bytes]) -> list[ImageInput]:
        """The pixels of images that have been read before."""
        if not files:  # as where the model takes none
            return []
        assert self._images is not None
        return [await self._image(self._images.read, file, number) for number, file in enumerate(files)]

    async def _encode(self, text: str, room: int, *, special: bool) -> list[int]:
        return await self._pool.fit(
            len(text), lambda: self.vocabulary.encode(text, special=special, room=room)
        )

    async def _file(self, url: str) -> bytes:
        if url[:5].lower() == "data:":
            return await self._pool.run(read_data_url, url)
        return await self._source.get(url)

    async def _image(self, function: Callable[[bytes], T], file: bytes, number: int) -> T:
        try:
            return await self._pool.run(function, file)
        except ValueError as error:
            raise invalid(f"image {number + 1}: {error}", "messages", "invalid_image") from None


def expand(tokens: Sequence[int], images: Sequence[ImageInput], placeholder: int) -> list[int]:
    """A prompt with a placeholder for each embedding instead of one for each image.

    Raises:
        ApiError: status 400: text holds the placeholder too, or the template leaves images out.
    """
    found = tokens.count(placeholder)
    if found != len(images):
        raise invalid(f"the prompt has {found} places for {len(images)} images", "messages", "invalid_image")
    remaining = iter(images)
    expanded: list[int] = []
    for token in tokens:
        expanded += [token] * (next(remaining).tokens if token == placeholder else 1)
    return expanded


def _image_urls(message: Message) -> list[str]:
    if message.content is None or isinstance(message.content, str):
        return []
    return [part.image_url.url for part in message.content if isinstance(part, ImagePart)]


def _template_message(message: Message) -> dict[str, Any]:
    """A message as chat templates know it; text alone is always a plain string, which all of them take."""
    role = "system" if message.role == "developer" else message.role
    content: object
    if message.content is None or isinstance(message.content, str):
        content = message.content or ""
    elif any(isinstance(part, ImagePart) for part in message.content):
        content = [
            {"type": "image"} if isinstance(part, ImagePart) else {"type": "text", "text": part.text}
            for part in message.content
        ]
    else:
        content = "\n".join(part.text for part in message.content if not isinstance(part, ImagePart))
    said = {"role": role, "content": content}
    if message.tool_calls:
        said["tool_calls"] = [_template_call(call) for call in message.tool_calls]
    more = {"name": message.name, "tool_call_id": message.tool_call_id}
    return said | {name: value for name, value in more.items() if value is not None}


def _template_call(call: ToolCall) -> dict[str, Any]:
    """A call of a tool; templates take its arguments apart, which OpenAI writes as JSON in a text."""
    arguments = call.function.arguments
    with suppress(ValueError, RecursionError):
        arguments = json.loads(arguments)
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.function.name, "arguments": arguments},
    }


_LETTERS = byte_letters()


def _raw_bytes(piece: str) -> bytes | None:
    """The bytes that an entry of a vocabulary stands for, if it is written as bytes."""
    written = re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", piece)
    if written:
        return bytes.fromhex(written[1])
    if piece and all(letter in _LETTERS for letter in piece):
        return bytes(_LETTERS[letter] for letter in piece)
    return None
