"""Stands in for `triptych serve`: the same command line, made-up tokens, and faults that a test asks for.

Faults are in the environment: FAKE_LAST_WORDS (says this and ends with code 2), FAKE_DEATH (dies at that
request), FAKE_REFUSE (refuses all but the probe), FAKE_GAP (seconds before every token). With
TRIPTYCH_API_KEY, which is the real one's, it refuses all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from typing import Any

from aiohttp import web

TEMPLATE = 5
"""Tokens of the chat template."""
_GAP = float(os.environ.get("FAKE_GAP", "0.002"))
_DEATH = int(os.environ.get("FAKE_DEATH", "0"))
_REFUSE = "FAKE_REFUSE" in os.environ
_KEY = "TRIPTYCH_API_KEY" in os.environ


class Server:
    """Counts what it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if _KEY:
            return web.json_response({"error": {"message": "no key"}}, status=401)
        body = await request.json()
        output = body["max_tokens"]
        if output > 1:  # none of the probe
            self.asked += 1
            if self.asked == _DEATH:
                print("triptych: the worker is gone", file=sys.stderr, flush=True)
                os._exit(1)
            if _REFUSE:
                return web.json_response({"error": {"message": "not today"}}, status=400)
        chat = "messages" in body
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(output):
            await asyncio.sleep(_GAP)
            token: dict[str, Any] = {"delta": {"content": "x"}} if chat else {"text": "x"}
            finish = "length" if number == output - 1 else None
            await _send(response, {"choices": [{**token, "finish_reason": finish}]})
        usage = {"prompt_tokens": _count(body), "completion_tokens": output}
        await _send(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response


def _count(body: dict[str, Any]) -> int:
    if "prompt" in body:
        return len(body["prompt"])
    content = body["messages"][0]["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return TEMPLATE + sum(len(part["text"].split()) for part in parts if part["type"] == "text")


async def _send(response: web.StreamResponse, event: dict[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")


async def _ready(request: web.Request) -> web.Response:
    return web.json_response({"status": "ready"})


async def _models(request: web.Request) -> web.Response:
    return web.json_response({"data": [{"id": "fake", "root": "fake"}]})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("deployment")
    for option in ("--host", "--port", "--record", "--max-queue", "--set"):
        parser.add_argument(option)
    options = parser.parse_args()
    if words := os.environ.get("FAKE_LAST_WORDS"):
        print(f"triptych: {words}", file=sys.stderr)
        sys.exit(2)
    server = Server()
    app = web.Application()
    app.router.add_get("/ready", _ready)
    app.router.add_get("/v1/models", _models)
    app.router.add_post("/v1/completions", server.answer)
    app.router.add_post("/v1/chat/completions", server.answer)
    web.run_app(app, host=options.host, port=int(options.port), print=None, shutdown_timeout=0.1)


if __name__ == "__main__":
    main()
