"""/tokenize and /detokenize, as vLLM has them: what a text or a conversation is in tokens, and back."""

from __future__ import annotations

from typing import Any

import msgspec

from triptych.engine.server.errors import invalid
from triptych.engine.server.front import Front
from triptych.engine.server.protocol import Message, TokenId, decode


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
    request = decode(TokenizeRequest, body)
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
            size=len(body),
            tools=request.tools,
        )
    tokens = prompt.tokens
    spell = front.prompts.vocabulary.spell
    spelled = [spell(token)[0] for token in tokens] if request.return_token_strs else None
    return {"count": len(tokens), "max_model_len": context, "tokens": tokens, "token_strs": spelled}


async def detokenize(front: Front, body: bytearray) -> dict[str, Any]:
    """Text of tokens; special ones are written out.

    Raises:
        ApiError: it cannot be done.
    """
    request = decode(DetokenizeRequest, body)
    front.check_model(request.model)
    front.check_loaded()
    return {"prompt": front.prompts.vocabulary.write(request.tokens)}
