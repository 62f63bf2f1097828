"""/tokenize and /detokenize, as vLLM has them: what a text or a conversation is in tokens, and back."""

from __future__ import annotations

from typing import Any

import msgspec

from triptych.engine.server.errors import context_exceeded, invalid
from triptych.engine.server.front import Front
from triptych.engine.server.protocol import Message, TokenId, decode

_SPELLING = 16
"""Bytes of input that take as long as spelling a token."""


class TokenizeRequest(msgspec.Struct, frozen=True):
    """The body of /tokenize: `prompt` or `messages`."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    add_special_tokens: bool | None = None
    """None: as the generating routes have it: of a prompt, and not of messages."""
    return_token_strs: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None


class DetokenizeRequest(msgspec.Struct, frozen=True):
    """The body of /detokenize."""

    tokens: list[TokenId]
    model: str | None = None


async def tokenize(front: Front, body: bytearray) -> dict[str, Any]:
    """Tokens of a prompt, with a placeholder for each embedding of an image.

    Raises:
        ApiError: it cannot be done.
    """
    size = len(body)
    request = await front.pool.fit(size, decode, TokenizeRequest, body)
    front.check_model(request.model)
    context = front.check_loaded()
    given = request.add_special_tokens
    if (request.prompt is None) == (request.messages is None):
        raise invalid("give either prompt or messages", "prompt")
    if request.prompt is not None:
        prompt = await front.prompts.of_text(request.prompt, context, special=given is not False)
    else:
        prompt, _ = await front.prompts.of_messages(
            request.messages or [],
            request.chat_template_kwargs or {},
            context,
            special=bool(given),
            size=size,
            tools=request.tools,
        )
    tokens = prompt.tokens
    spelled = None
    if request.return_token_strs:
        spelled = await front.pool.fit(_SPELLING * len(tokens), _spell, front, tokens)
    return {"count": len(tokens), "max_model_len": context, "tokens": tokens, "token_strs": spelled}


async def detokenize(front: Front, body: bytearray) -> dict[str, Any]:
    """Text of tokens; special ones are written out.

    Raises:
        ApiError: it cannot be done, or there are more tokens than the model's context holds.
    """
    size = len(body)
    request = await front.pool.fit(size, decode, DetokenizeRequest, body)
    front.check_model(request.model)
    context = front.check_loaded()
    if len(request.tokens) > context:
        raise context_exceeded(context, len(request.tokens))
    return {"prompt": await front.pool.fit(size, front.prompts.vocabulary.write, request.tokens)}


def _spell(front: Front, tokens: list[int]) -> list[str]:
    return [front.prompts.vocabulary.spell(token)[0] for token in tokens]
