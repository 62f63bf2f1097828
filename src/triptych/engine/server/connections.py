"""Connections as uvicorn serves them, with an end to what it would wait for or keep without one.

A client has so long to send the head of a request (its first line and headers), and so many bytes for it; and
it must read its answer. How long a body may take is left to `body`, which knows that it is waited for.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from types import FrameType

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from triptych.engine.server.answers import encode
from triptych.engine.server.errors import ApiError

HEAD_SECONDS = 20.0
"""From the begin of a connection, or the end of the last answer on it, to the end of a request's head."""
UNREAD_SECONDS = 30.0
"""A connection that is being closed is cut off if its client has read nothing of the answer for so long."""
MAX_HEAD = 64 * 2**10
"""Bytes. Other servers take 8 to 64 KiB."""
_MAX_PIPELINE = 16
"""Requests that may wait behind one that is being answered on the same connection."""
_BETWEEN_LOOKS = 0.25


class Connection(HttpToolsProtocol):
    """One client's connection; arguments as of its base."""

    waiting_since: float | None = None
    """When the head of the next request began to be waited for; None: a request is being answered."""
    _begun = False
    """Whether a part of that head is there."""
    _refusal: ApiError | None = None
    _head = 0
    """Bytes of the present request's head, and of what follows its body (trailers)."""
    _unclaimed = 0
    """Bytes that came since the parser last gave a body, or the end of a head: those of something half."""
    _left = -1
    """Bytes of answers that the client has not read, at the last look."""
    _moved = 0.0
    """When that was another number."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.waiting_since = monotonic()

    def data_received(self, data: bytes) -> None:
        self._unclaimed += len(data)
        super().data_received(data)
        if self._unclaimed > MAX_HEAD and not self.transport.is_closing():
            self._refuse(_head_too_large())

    # What the parser finds ----------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._begun, self._head = True, 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= _MAX_PIPELINE:
            self._refusal = ApiError(400, "too many requests at once on one connection; wait for answers")
            raise self._refusal
        self._begun, self._unclaimed = False, 0
        self.waiting_since = None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unclaimed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unclaimed = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:  # no request waits behind it
            self.waiting_since = monotonic()

    # What ends a connection ---------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Ends the connection if its client keeps it waiting for too long.

        Args:
            now: of the monotonic clock.
        """
        if self.transport.is_closing():
            left = self.transport.get_write_buffer_size()
            if left != self._left:
                self._left, self._moved = left, now
            elif now - self._moved > UNREAD_SECONDS:
                self.transport.abort()
        elif self.waiting_since is not None and now - self.waiting_since > HEAD_SECONDS:
            if self._begun:
                self._refuse(ApiError(408, f"the request did not come within {HEAD_SECONDS:g} s"))
            else:
                self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answers what is no request, in the words of the API."""
        self._refuse(self._refusal or ApiError(400, msg))

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > MAX_HEAD:
            self._refusal = _head_too_large()
            raise self._refusal  # the parser stops

    def _refuse(self, error: ApiError) -> None:
        body = encode(error.body())
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(
            body
        )
        self.transport.write(STATUS_LINE[error.status] + head + body)
        self.transport.close()


class HttpServer(uvicorn.Server):
    """uvicorn, which leaves it to others what signals do.

    Args:
        config: of uvicorn, with `Connection` for its connections.
        interrupt: called in the event loop when a signal comes.
    """

    def __init__(self, config: uvicorn.Config, interrupt: Callable[[], None]) -> None:
        super().__init__(config)
        self._interrupt = interrupt
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        looking = asyncio.create_task(self._look())
        try:
            await super().serve(sockets)
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Notes a signal; it comes in the midst of anything."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._interrupt)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_BETWEEN_LOOKS)
            now = monotonic()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.look(now)


def _head_too_large() -> ApiError:
    return ApiError(431, f"the headers are larger than {MAX_HEAD >> 10} KiB", code="headers_too_large")
