"""From the body of a request to what is to be done."""

from __future__ import annotations

from dataclasses import dataclass

from triptych.engine.messages import ImageInput, Sampling
from triptych.engine.server.answers import Chat, Completion, Shape
from triptych.engine.server.client import Prompt
from triptych.engine.server.errors import context_exceeded, invalid
from triptych.engine.server.front import Front
from triptych.engine.server.protocol import ChatRequest, CompletionRequest, Options, parse


@dataclass
class Job:
    """What is to be done; nothing of the body is held beside images as files."""

    shape: Shape
    tasks: list[tuple[Prompt, Sampling]]
    """One for each answer."""
    images: list[ImageInput]
    """Of the prompt, which is the only one where there are any; dropped when they have been sent."""
    stops: list[str]
    stream: bool
    include_usage: bool
    continuous_usage: bool
    prompt_tokens: int


async def chat(front: Front, id: str, body: bytearray) -> Job:
    """The job that a body of /v1/chat/completions asks for.

    Raises:
        ApiError: it cannot be done.
    """
    size = len(body)
    request = await front.pool.fit(size, parse, ChatRequest, body)
    model = front.check_model(request.model)
    options = request.chat_template_kwargs or {}
    prompt, images = await front.prompts.of_messages(
        request.messages,
        options,
        front.check_loaded(),
        special=bool(request.add_special_tokens),
        size=size,
        tools=request.tools,
    )
    shape = Chat(
        id,
        model,
        spell=front.prompts.vocabulary.spell,
        scored=request.candidates is not None,
        counted=request.include_usage,
    )
    return _job(front, request, shape, [prompt], images)


async def completion(front: Front, id: str, body: bytearray) -> Job:
    """The job that a body of /v1/completions asks for.

    Raises:
        ApiError: it cannot be done.
    """
    request = await front.pool.fit(len(body), parse, CompletionRequest, body)
    model = front.check_model(request.model)
    given = request.prompts
    answers = len(given) * request.choices
    if answers > front.queue.limit:
        raise invalid(f"{answers} answers are more than the queue holds; send fewer", "prompt")
    special = request.add_special_tokens is not False
    room = front.check_loaded()
    prompts = [await front.prompts.of_text(text, room, special=special) for text in given]
    shape = Completion(
        id,
        model,
        spell=front.prompts.vocabulary.spell,
        scored=request.candidates is not None,
        counted=request.include_usage,
    )
    return _job(front, request, shape, prompts, [])


def _job(
    front: Front, request: Options, shape: Shape, prompts: list[Prompt], images: list[ImageInput]
) -> Job:
    tasks = []
    for prompt in prompts:
        limit = _limit(front, request, len(prompt.tokens))
        tasks += [(prompt, request.sampling(limit, choice)) for choice in range(request.choices)]
    return Job(
        shape=shape,
        tasks=tasks,
        images=images,
        stops=request.stops,
        stream=bool(request.stream),
        include_usage=request.include_usage,
        continuous_usage=request.continuous_usage,
        prompt_tokens=sum(len(prompt.tokens) for prompt in prompts),
    )


def _limit(front: Front, request: Options, prompt_tokens: int) -> int:
    """Output tokens at the most."""
    if not prompt_tokens:
        raise invalid("the prompt is empty", "prompt")
    context = front.check_loaded()
    room = context - prompt_tokens
    limit = request.output_limit
    if room < 1 or (limit is not None and limit > room):
        raise context_exceeded(context, prompt_tokens, limit)
    return room if limit is None else limit
