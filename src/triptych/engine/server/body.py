"""Bodies of requests, read up to a limit, whatever their length is said to be."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import Receive

from triptych.engine.server.errors import ApiError, unavailable

_DISCARDED = 2
"""Bodies of the largest legal size that are read and thrown away before the answer to one that is too large:
a client that is cut off while it sends may never look at the answer."""
BODY_SECONDS = 20.0
"""That a body may take, beyond what its size takes at the lowest speed."""
_SLOWEST = 16 * 2**10
"""Bytes/s."""


class ClientGone(Exception):  # noqa: N818 - it is no error
    """The client has closed the connection."""


class Bodies:
    """Reads bodies; together they take no more memory than is set aside for them.

    Args:
        limit: bytes of one body.
        total: bytes of all that are held at once.
    """

    def __init__(self, limit: int, total: int) -> None:
        self.limit = limit
        self._total = max(total, limit)
        self.held = 0

    async def read(self, headers: Headers, receive: Receive) -> bytearray:
        """A body; `release` it when it is not needed any more.

        Raises:
            ApiError: status 408: it comes too slowly; 413: it is too large; 503: too many large ones at once.
            ClientGone: it will never be complete.
        """
        began = asyncio.get_running_loop().time()
        body = bytearray()
        try:
            async with asyncio.timeout_at(began + BODY_SECONDS) as limit:
                length = headers.get("content-length", "")
                if length.isdigit() and int(length) > self.limit:
                    await self._discard(receive)
                    raise self._too_large()
                while True:
                    piece, more = await _next(receive)
                    if len(body) + len(piece) > self.limit:
                        if more:
                            await self._discard(receive)
                        raise self._too_large()
                    if self.held + len(piece) > self._total:
                        raise unavailable("too many large requests at once; try again", "server_overloaded")
                    self.held += len(piece)
                    body += piece
                    if not more:
                        return body
                    limit.reschedule(began + BODY_SECONDS + len(body) / _SLOWEST)
        except BaseException as error:
            self.release(len(body))
            if isinstance(error, TimeoutError):
                raise ApiError(
                    408, "the body comes too slowly; send it at once", code="body_timeout"
                ) from None
            raise

    def release(self, size: int) -> None:
        """Gives back the memory of a body of this many bytes."""
        self.held -= size

    async def _discard(self, receive: Receive) -> None:
        left = _DISCARDED * self.limit
        while left > 0:
            piece, more = await _next(receive)
            left -= len(piece)
            if not more:
                return

    def _too_large(self) -> ApiError:
        megabytes = self.limit / 2**20
        message = (
            f"the body is larger than {megabytes:g} MB; send less, or start the server with --max-body-mb"
        )
        return ApiError(413, message, code="request_too_large")


async def _next(receive: Receive) -> tuple[bytes, bool]:
    """The next piece of a body, and whether there will be more."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    return message.get("body", b""), message.get("more_body", False)
