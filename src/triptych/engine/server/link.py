"""The sockets between the front end and one worker process."""

from __future__ import annotations

import logging
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import zmq
import zmq.asyncio

from triptych.engine.messages import Ready, Round, from_worker

logger = logging.getLogger("triptych.server")


class Link:
    """Bound sockets, in files that no one else can open. Each worker process gets new ones.

    What was meant for a worker that died, or was said by it, can thus never reach another.

    Args:
        directory: private to the server.
        number: of the worker process.
        context: of ZeroMQ.
    """

    def __init__(self, directory: Path, number: int, context: zmq.asyncio.Context) -> None:
        self._files = (directory / f"{number}.in", directory / f"{number}.out")
        self.inbox, self.outbox = (f"ipc://{file}" for file in self._files)
        self._push, self._pull = context.socket(zmq.PUSH), context.socket(zmq.PULL)
        for socket, address in ((self._push, self.inbox), (self._pull, self.outbox)):
            socket.set_hwm(0)  # how much may wait is decided by the bounded queue of requests
            socket.setsockopt(zmq.LINGER, 0)
            socket.bind(address)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._push.close()
        self._pull.close()
        for file in self._files:
            file.unlink(missing_ok=True)

    def send(self, data: bytes) -> None:
        """Sends a message after all before it; it is kept while the worker does not take it."""
        self._push.send(data, copy=False)

    async def receive(self) -> Ready | Round:
        """The next message; what is none is dropped."""
        while True:
            data = await self._pull.recv()
            try:
                return from_worker(data)
            except msgspec.DecodeError as error:
                logger.warning("dropped a message of the worker that is none: %s", error)
