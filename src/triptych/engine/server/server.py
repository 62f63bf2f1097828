"""A server from start to end: its port, its routes, its worker process, and how it stops."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from triptych.engine.server.app import make_app
from triptych.engine.server.body import Bodies
from triptych.engine.server.client import Client
from triptych.engine.server.connections import Connection, HttpServer
from triptych.engine.server.fetch import ImageSource
from triptych.engine.server.front import Front, Queue
from triptych.engine.server.gate import Gate, check_exposure, is_loopback
from triptych.engine.server.metrics import Metrics
from triptych.engine.server.pool import Pool
from triptych.engine.server.prompts import Load, Prompts
from triptych.engine.server.supervisor import BAD_DECLARATION, Patience, Supervisor
from triptych.spec.base import SpecError

logger = logging.getLogger("triptych.server")

MAX_IMAGE_BYTES = 20 * 2**20
"""Of an image that is fetched."""
_BACKLOG = 4096
_HELD_BODIES = 2 * 2**30
"""Bytes of bodies, with the images in them, that are held at once."""
_SAME_FAULT = 3.0
"""Seconds between front end and worker finding the same fault of a model, at the most."""
KILLED = 130
"""Exit code after a second signal, as of a shell that reports an interrupt."""


@dataclass(frozen=True)
class Settings:
    """How a server behaves."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0: any that is free."""
    max_queue: int = 1024
    """Answers that may wait for their first token."""
    max_body_mb: float = 64.0
    """Eight JPEGs of 2000x2000 pixels are up to 32 MB, in base64 a third more."""
    request_timeout: float = 600.0
    """Seconds from the arrival of a request to the end of its answer."""
    image_hosts: tuple[str, ...] = ()
    """Hosts of which images are fetched."""
    api_key: str | None = field(default=None, repr=False)
    """That requests must hold."""
    allow_anyone: bool = False
    """Whether anyone who reaches the server may use it without a key."""
    patience: Patience = field(default_factory=Patience)


class Server:
    """A front end with its worker.

    Args:
        settings: how it behaves.
        models: names that the model goes by.
        load: loads the tokenizer; called in a thread while the worker loads the model.
        command: starts a worker, less the addresses of its sockets.
        directory: private, for sockets.

    Raises:
        SpecError: the port cannot be had, or would be open to anyone without `--allow-anyone`.
    """

    def __init__(
        self,
        settings: Settings,
        models: tuple[str, ...],
        load: Load,
        command: Sequence[str],
        directory: Path,
    ) -> None:
        self._socket = _listen(settings.host, settings.port)
        address, self.port = self._socket.getsockname()[:2]
        try:
            check_exposure(address, settings.api_key, anyone=settings.allow_anyone)
        except SpecError:
            self._socket.close()
            raise
        max_body = int(settings.max_body_mb * 2**20)
        self._pool = Pool()
        self._source = ImageSource(settings.image_hosts, max_bytes=min(MAX_IMAGE_BYTES, max_body))
        metrics = Metrics()
        prompts = Prompts(self._source, self._pool, max_body)
        client = Client(self._pool, prompts.read_images, metrics.loaded)
        self.supervisor = Supervisor(command, directory, client, metrics, settings.patience)
        self.front = Front(
            models=models,
            created=int(time.time()),
            client=client,
            prompts=prompts,
            pool=self._pool,
            bodies=Bodies(max_body, _HELD_BODIES),
            queue=Queue(settings.max_queue),
            metrics=metrics,
            request_timeout=settings.request_timeout,
        )
        self._load = load
        config = uvicorn.Config(
            Gate(make_app(self.front), key=settings.api_key, loopback=is_loopback(address)),
            http=Connection,
            access_log=False,
            log_level="warning",
            lifespan="off",
            ws="none",
            backlog=_BACKLOG,
            server_header=False,
            timeout_graceful_shutdown=5,
        )
        self.loop_factory = config.get_loop_factory()
        self._http = HttpServer(config, self.interrupt)
        self._signals = 0
        self._interrupted = asyncio.Event()
        self._hurried = asyncio.Event()

    async def run(self) -> int:
        """Serves until it is interrupted, or the worker cannot be kept running.

        Returns:
            The exit code.

        Raises:
            SpecError: the tokenizer cannot be loaded.
        """
        http = asyncio.create_task(self._http.serve(sockets=[self._socket]))
        worker = asyncio.create_task(self.supervisor.run())
        drained = asyncio.create_task(self._drain())
        announced = asyncio.create_task(self._announce())
        loaded = asyncio.create_task(self.front.prompts.load(self._load))
        try:
            await _first(worker, drained, http, loaded)
            failed = loaded.done() and loaded.exception() is not None
            if failed:  # the worker, which reads the same model, may be about to say the same
                await asyncio.wait({worker}, timeout=_SAME_FAULT)
            elif loaded.done():
                await _first(worker, drained, http)
            self.front.draining = True
            if worker.done():
                await self._answered(limit=1.0)
                code = worker.result()
            else:
                if failed:
                    self._hurried.set()
                await self._stop_worker()
                await worker
                await self._unless_hurried(loaded)  # its thread cannot be stopped
                code = KILLED if self._hurried.is_set() else 0
            self._http.should_exit = True
            self._http.force_exit = self._hurried.is_set()
            await http
            if failed and code != BAD_DECLARATION:  # or the worker has said the same
                loaded.result()
            return code
        finally:
            for task in (drained, announced, loaded):
                task.cancel()
            await self._source.close()
            self._pool.close()

    def interrupt(self) -> None:
        """The first time: no new requests, and the end when those under way are done. The second: the end."""
        self._signals += 1
        self.front.draining = True
        (self._interrupted if self._signals == 1 else self._hurried).set()

    async def _drain(self) -> None:
        await self._interrupted.wait()
        count = self.front.in_flight
        under_way = f": {count} request{' is' if count == 1 else 's are'} under way" if count else ""
        logger.warning("stopping%s; Ctrl-C again ends it at once", under_way)
        answered = asyncio.create_task(self._answered())
        await self._unless_hurried(answered)
        answered.cancel()

    async def _stop_worker(self) -> None:
        """Gives the worker time to write its record, unless there is a hurry."""
        stop = asyncio.create_task(self.supervisor.stop())
        await self._unless_hurried(stop)
        if not stop.done():
            stop.cancel()
            await self.supervisor.stop(at_once=True)

    async def _unless_hurried(self, task: asyncio.Task[Any]) -> None:
        """Waits until a task has ended, or there is a hurry."""
        hurried = asyncio.create_task(self._hurried.wait())
        await _first(task, hurried)
        hurried.cancel()

    async def _answered(self, limit: float = float("inf")) -> None:
        """Waits until no request is under way."""
        end = time.monotonic() + limit
        while self.front.in_flight and time.monotonic() < end:
            await asyncio.sleep(0.02)

    async def _announce(self) -> None:
        began = time.monotonic()
        while self.front.not_ready() is not None:
            await asyncio.sleep(0.02)
        host, port = self._socket.getsockname()[:2]
        where = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        logger.warning(
            "%s is served at %s, after %.1f s", self.front.models[0], where, time.monotonic() - began
        )


async def _first(*tasks: asyncio.Task[Any]) -> None:
    """Waits until one of them has ended."""
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


def _listen(host: str, port: int) -> socket.socket:
    """A socket that lets clients connect, and wait until the server is up."""
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, OverflowError) as error:
        raise SpecError("--host", f"{host!r} is no address to listen on: {error}") from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise SpecError("--port", f"{host}:{port} cannot be used: {reason}; choose another") from None
    return listener
