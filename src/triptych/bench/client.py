"""One request over HTTP: sent, read as it streams, timed."""

from __future__ import annotations

import asyncio
import json
from errno import ECONNREFUSED
from io import BytesIO
from math import isinf
from time import monotonic
from types import TracebackType
from typing import Any, Self

import aiohttp

from triptych.bench.answer import Answer
from triptych.bench.events import Events, Stream, error_message, not_a_stream
from triptych.bench.server import Server
from triptych.policy import Status
from triptych.spec.base import SpecError

_BUSY = (429, 503)
"""What servers answer that have no room now."""
_IDLE_SECONDS = 2.0
"""A connection is used again within this time only: uvicorn closes idle ones after 5 s, and a request that
is sent into one that is being closed is lost."""
_CONNECT_SECONDS = 30.0
_LARGE = 1 << 20
"""Bytes of a body from which on it is written piece by piece."""
_LONGEST_MESSAGE = 300


class Client:
    """The connections to a server.

    Args:
        server: which one, and how it is asked.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        headers = {"Content-Type": "application/json"}
        if self._server.api_key:
            headers["Authorization"] = f"Bearer {self._server.api_key}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
            headers=headers,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def models(self) -> dict[str, str] | None:
        """Names of the models that are served -> what they are names of; None: the server does not say.

        Raises:
            SpecError: it cannot be reached, or refuses to talk.
        """
        url = f"{self._server.base}/models"
        try:
            async with self._session.get(url) as response:
                body = await response.read()
        except (aiohttp.ClientError, OSError) as error:
            problem = f"{self._server.url} cannot be reached: {_words(error)}"
            raise SpecError("--url", f"{problem}; start the server or correct the URL") from None
        if response.status in (401, 403):
            problem = f"{self._server.url} asks for a key; set OPENAI_API_KEY ({_message(body)})"
            raise SpecError("--url", problem)
        try:
            listed = json.loads(body)["data"]
            return {str(model["id"]): str(model.get("root") or model["id"]) for model in listed}
        except (AttributeError, ValueError, KeyError, TypeError):
            return None

    async def send(self, path: str, body: bytes, answer: Answer, patience: float, by_abort: bool) -> None:
        """Sends a request and reads its answer to the end; failures are noted in the answer.

        Args:
            path: appended to the URL of the server.
            body: JSON.
            answer: is filled while the stream comes, so that it holds what there is if this is cancelled.
            patience: seconds after which the client gives up; inf: never.
            by_abort: whether giving up is going away rather than a time-out.
        """
        answer.sent = monotonic()
        try:
            async with asyncio.timeout(None if isinf(patience) else patience):
                for retry in range(self._server.retries + 1):
                    wait = await self._once(f"{self._server.base}{path}", body, answer)
                    if wait is None or retry == self._server.retries:
                        break
                    await asyncio.sleep(wait)
        except (aiohttp.ClientError, ConnectionError) as error:
            answer.fail(_words(error), monotonic())
        except TimeoutError:
            answer.status = Status.ABORTED if by_abort else Status.TIMED_OUT
            answer.end = monotonic()

    async def _once(self, url: str, body: bytes, answer: Answer) -> float | None:
        """Sends once; returns the seconds after which a server without room wants to be asked again."""
        data = BytesIO(body) if len(body) >= _LARGE else body
        async with self._session.post(url, data=data) as response:
            answer.http_status = response.status
            if response.status != 200:
                answer.fail(_message(await response.read()), monotonic())
                return _retry_after(response) if response.status in _BUSY else None
            answer.error = ""
            await self._read(response, answer)
        return None

    async def _read(self, response: aiohttp.ClientResponse, answer: Answer) -> None:
        events, stream = Events(), Stream(answer)
        try:
            async for received in response.content.iter_any():
                for data in events.feed(received):
                    stream.take(data, monotonic())
            if events.other:
                raise ValueError(not_a_stream(events.other))
            stream.close()
        except ValueError as error:
            answer.fail(_short(str(error)), monotonic())


def _retry_after(response: aiohttp.ClientResponse) -> float:
    try:
        return max(float(response.headers.get("Retry-After", 1)), 0.0)
    except ValueError:
        return 1.0


def _message(body: bytes) -> str:
    try:
        said: Any = json.loads(body)
    except ValueError:
        said = body.decode("utf-8", "replace")
    return _short(error_message(said))


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _LONGEST_MESSAGE else f"{words[:_LONGEST_MESSAGE]}..."


def _words(error: BaseException) -> str:
    """An error of the connection, without the words of the library."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"no host is known as {error.host}"
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno == ECONNREFUSED:
        return f"nothing listens at {error.host}:{error.port}"
    if isinstance(error, aiohttp.ClientConnectorError):
        return _short(f"no connection to {error.host}: {error.strerror or error.os_error}")
    return _short(str(error) or type(error).__name__)
