"""A server with the OpenAI API that answers with made-up tokens after times that a test sets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import Event, Thread
from time import monotonic
from typing import Any

from aiohttp import web

MODEL = "fake"
CHAT_OVERHEAD = 7
"""Tokens of the chat template."""
IMAGE_TOKENS = 100

Refusal = tuple[int, dict[str, Any]] | None


@dataclass
class Fake:
    """What the server does, and what it saw."""

    first: float = 0.0
    """Seconds before the first token, of every request by itself."""
    gap: float = 0.0
    """Seconds between tokens."""
    service: float = 0.0
    """Seconds for which a request has the server to itself, before its first token; others queue."""
    refuse: Callable[[dict[str, Any]], Refusal] = lambda body: None
    break_off: bool = False
    """Streams end after half of the tokens."""
    fail_midway: bool = False
    """Streams tell of an error after half of the tokens."""
    texts: int = 1 << 30
    """Tokens after which the others carry no text."""
    left_out: int = 0
    """Tokens by which answers of more than one are shorter than asked for."""
    finish: str = "length"
    """Why an answer of more than one token ends."""
    plain: dict[str, Any] | None = None
    """Sent with status 200 instead of a stream, but for answers of one token."""
    tokens_per_word: int = 1
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """Of all requests, those of the probe among them."""
    times: list[float] = field(default_factory=list)
    """When each body had come."""
    under_way: int = 0
    most_under_way: int = 0
    gone: int = 0
    """Clients that closed the connection."""
    free_at: float = 0.0

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The bodies without those of the probe."""
        return [body for body in self.bodies if body["max_tokens"] > 1]


@contextmanager
def serving(**settings: Any) -> Iterator[Fake]:
    """Runs a server in a thread of its own."""
    fake = Fake(**settings)
    ready, stop = Event(), Event()

    async def serve() -> None:
        app = web.Application(client_max_size=1 << 28)
        app.router.add_get("/v1/models", _models)
        app.router.add_post("/v1/completions", partial(_answer, fake, "text"))
        app.router.add_post("/v1/chat/completions", partial(_answer, fake, "delta"))
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        ready.set()
        while not stop.is_set():
            await asyncio.sleep(0.02)
        await runner.cleanup()

    thread = Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    ready.wait()
    try:
        yield fake
    finally:
        stop.set()
        thread.join()


async def _models(request: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": [{"id": MODEL}]})


async def _answer(fake: Fake, kind: str, request: web.Request) -> web.StreamResponse:
    body = json.loads(await request.read())
    body.setdefault("max_tokens", body.get("max_completion_tokens", 16))
    fake.times.append(monotonic())
    fake.bodies.append(body)
    refusal = fake.refuse(body)
    if refusal is not None:
        headers = {"Retry-After": "0"} if refusal[0] == 503 else {}
        return web.json_response(refusal[1], status=refusal[0], headers=headers)
    if fake.plain is not None and body["max_tokens"] > 1:
        return web.json_response(fake.plain)
    fake.under_way += 1
    fake.most_under_way = max(fake.most_under_way, fake.under_way)
    try:
        return await _stream(fake, request, body, kind)
    except (asyncio.CancelledError, ConnectionResetError):
        fake.gone += 1
        raise
    finally:
        fake.under_way -= 1


async def _stream(fake: Fake, request: web.Request, body: dict[str, Any], kind: str) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    if fake.service and body["max_tokens"] > 1:
        fake.free_at = max(fake.free_at, monotonic()) + fake.service
        await asyncio.sleep(fake.free_at - monotonic())
    tokens = body["max_tokens"] if body["max_tokens"] == 1 else body["max_tokens"] - fake.left_out
    if kind == "delta":
        await response.write(_chunk({"delta": {"role": "assistant", "content": ""}, "index": 0}))
    due = monotonic() + fake.first
    for number in range(tokens):
        await asyncio.sleep(max(due - monotonic(), 0))
        due += fake.gap
        if number == tokens // 2 and tokens > 1:
            if fake.break_off:
                return response
            if fake.fail_midway:
                await response.write(b'data: {"error": {"message": "the worker died"}}\n\ndata: [DONE]\n\n')
                return response
        said = " x" if number < fake.texts else ""
        text = {"text": said} if kind == "text" else {"delta": {"content": said}}
        ends_with = fake.finish if tokens > 1 else "length"
        finish = ends_with if number == tokens - 1 else None
        await response.write(_chunk({**text, "index": 0, "finish_reason": finish}))
    if tokens == 0:
        await response.write(_chunk({"text": "", "index": 0, "finish_reason": "stop"}))
    prompt = count_tokens(body, fake.tokens_per_word)
    usage = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
    object_ = "chat.completion.chunk" if kind == "delta" else "text_completion"
    data = json.dumps({"id": "x", "object": object_, "choices": [], "usage": usage}).encode()
    await response.write(b"data: " + data + b"\n\ndata: [DONE]\n\n")
    return response


def _chunk(choice: dict[str, Any]) -> bytes:
    kind = "chat.completion.chunk" if "delta" in choice else "text_completion"
    event = {"id": "x", "object": kind, "model": MODEL, "choices": [choice], "usage": None}
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def count_tokens(body: dict[str, Any], tokens_per_word: int = 1) -> int:
    """Of a prompt, as the server sees them: a word is one token, or several."""
    if "prompt" in body:
        prompt = body["prompt"]
        return len(prompt) if isinstance(prompt, list) else len(prompt.split()) * tokens_per_word
    content = body["messages"][0]["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    counts = [
        len(part["text"].split()) * tokens_per_word if part["type"] == "text" else IMAGE_TOKENS
        for part in parts
    ]
    return CHAT_OVERHEAD + sum(counts)
