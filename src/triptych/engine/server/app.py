"""The routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from triptych.engine.server import jobs, tokens
from triptych.engine.server.answers import encode
from triptych.engine.server.body import ClientGone
from triptych.engine.server.errors import RETRY_SECONDS, ApiError
from triptych.engine.server.exchange import Exchange
from triptych.engine.server.front import Front
from triptych.engine.server.pool import LARGE
from triptych.version import __version__

_CLIENT_GONE = 499
"""The status that nginx logs for it; no client reads it."""


def make_app(front: Front) -> FastAPI:
    """The application that answers for a server."""
    app = FastAPI(title="Triptych", docs_url=None, redoc_url=None, openapi_url=None)

    @app.post("/v1/chat/completions")
    async def chat_completions() -> Response:
        return Exchange(front, "/v1/chat/completions", jobs.chat)

    @app.post("/v1/completions")
    async def completions() -> Response:
        return Exchange(front, "/v1/completions", jobs.completion)

    @app.get("/v1/models")
    async def models() -> Response:
        return _json({"object": "list", "data": [_model(front, name) for name in front.models]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        return _json(_model(front, front.check_model(name)))

    @app.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        return await _answer(front, request, tokens.tokenize)

    @app.post("/detokenize")
    async def detokenize(request: Request) -> Response:
        return await _answer(front, request, tokens.detokenize)

    @app.get("/version")
    async def version() -> Response:
        return _json({"version": __version__})

    @app.get("/health")
    async def health() -> Response:
        return _json({"status": "ok"})

    @app.get("/ready")
    async def ready() -> Response:
        reason = front.not_ready()
        if reason is None:
            return _json({"status": "ready"})
        return _json({"status": reason}, status=503, headers={"retry-after": str(RETRY_SECONDS)})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(front.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return _json(error.body(), status=error.status, headers=error.headers())

    @app.exception_handler(HTTPException)
    async def unrouted(request: Request, error: HTTPException) -> Response:
        problem = f"{request.method} {request.url.path}: {error.detail}"
        return _json(
            ApiError(error.status_code, problem).body(), status=error.status_code, headers=error.headers
        )

    return app


def _model(front: Front, name: str) -> dict[str, object]:
    ready = front.client.ready
    return {
        "id": name,
        "object": "model",
        "created": front.created,
        "owned_by": "triptych",
        "root": front.models[-1],
        "max_model_len": None if ready is None else ready.max_context,
    }


async def _answer(
    front: Front, request: Request, answer: Callable[[Front, bytearray], Awaitable[dict[str, Any]]]
) -> Response:
    """What is said to a body, once it is there."""
    front.check_loaded()
    try:
        body = await front.bodies.read(request.headers, request.receive)
    except ClientGone:
        return Response(status_code=_CLIENT_GONE)
    try:
        return _json(await answer(front, body))
    finally:
        size = len(body)
        front.bodies.release(size)
        del body
        if size > LARGE:
            front.pool.give_back()


def _json(data: object, *, status: int = 200, headers: object = None) -> Response:
    given = dict(headers) if isinstance(headers, dict) else None
    return Response(encode(data), status, given, media_type="application/json")
