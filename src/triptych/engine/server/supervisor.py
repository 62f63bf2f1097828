"""Keeps a worker process running: starts it, reads what it says, and starts another when it dies or hangs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import zmq.asyncio

from triptych.engine.messages import Ready, Shutdown, encode
from triptych.engine.server.client import Client
from triptych.engine.server.link import Link
from triptych.engine.server.metrics import Metrics
from triptych.engine.threads import ENVIRONMENT

logger = logging.getLogger("triptych.server")

BAD_DECLARATION = 2
"""Exit code of a worker that cannot be started as declared; it has said why."""


@dataclass(frozen=True)
class Patience:
    """How long, and how often, a worker may fail."""

    deaths: int = 5
    """In `within` seconds, after which it is given up."""
    within: float = 300.0
    silence: float = 300.0
    """Seconds with work to do and without a word after which a worker is taken to hang, and killed. More than
    any iteration takes."""
    first_pause: float = 0.1
    """Seconds before the next start; doubled with every death in `within`."""
    stop: float = 60.0
    """Seconds to write the record and end."""


class Supervisor:
    """One worker at a time.

    Args:
        command: starts a worker, less the addresses of its sockets.
        directory: private, for the sockets.
        client: is told when a worker comes and goes.
        metrics: counts restarts.
    """

    def __init__(
        self,
        command: Sequence[str],
        directory: Path,
        client: Client,
        metrics: Metrics,
        patience: Patience | None = None,
    ) -> None:
        self._command = command
        self._directory = directory
        self._client = client
        self._metrics = metrics
        self._patience = patience or Patience()
        self._recent: deque[float] = deque()
        """When workers died."""
        self.deaths = 0
        """Of workers that had been ready, or came after one that had: their records they have not written."""
        self._stopping = False
        self._process: asyncio.subprocess.Process | None = None
        self._link: Link | None = None

    @property
    def pid(self) -> int | None:
        """Of the present worker."""
        return None if self._process is None else self._process.pid

    async def run(self) -> int:
        """Keeps a worker running until `stop`, or until there is no hope.

        Returns:
            Exit code for the server: 0 after `stop`, 2 if the worker cannot be started as declared, else 1.
        """
        context = zmq.asyncio.Context()
        try:
            for number in range(sys.maxsize):
                with Link(self._directory, number, context) as link:
                    code = await self._one(link)
                if self._stopping:
                    if code and self._client.ready is not None:
                        logger.error("the worker ended with %s while it stopped", _ending(code))
                        self.deaths += 1
                    return 0
                if self._client.ready is None:
                    if code != BAD_DECLARATION:
                        logger.error("the worker ended with %s before it was ready", _ending(code))
                    return BAD_DECLARATION if code == BAD_DECLARATION else 1
                self.deaths += 1
                self._metrics.restarts.inc()
                pause = self._next_pause()
                if pause is None:
                    logger.error(
                        "the worker ended with %s, the %dth time within %g s: giving up",
                        _ending(code), self._patience.deaths, self._patience.within,
                    )  # fmt: skip
                    return 1
                logger.error("the worker ended with %s; starting another", _ending(code))
                await asyncio.sleep(pause)
                if self._stopping:
                    return 0
            return 1
        finally:
            self._client.fail_all("the server is stopping: its worker is gone")
            context.destroy(linger=0)

    async def stop(self, *, at_once: bool = False) -> None:
        """Ends the worker: told to, so that it writes its record; killed where that takes too long."""
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        if not at_once:
            if self._link is not None and self._client.connected:
                self._link.send(encode(Shutdown()))
            else:
                process.terminate()  # it is loading its model
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), self._patience.stop if self._client.connected else 5)
                return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    async def _one(self, link: Link) -> int:
        """The life of one worker; its exit code, negative for a signal."""
        addresses = ("--inbox", link.inbox, "--outbox", link.outbox)
        # What it prints goes to our standard error: standard output is for what a user asked for.
        process = await asyncio.create_subprocess_exec(
            *self._command,
            *addresses,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            start_new_session=True,  # Ctrl-C reaches this server alone, which decides what becomes of it
            env=ENVIRONMENT | os.environ,
        )
        self._process, self._link = process, link
        tasks = [asyncio.create_task(self._read(link)), asyncio.create_task(self._watch(process))]
        try:
            return await process.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._link = None
            if process.returncode is None:  # the server itself is being torn down
                process.kill()
            self._client.worker_down()

    async def _read(self, link: Link) -> None:
        while True:
            message = await link.receive()
            try:
                if isinstance(message, Ready):
                    if self._client.connected:
                        logger.warning("dropped a message of the worker: it is ready already")
                        continue
                    self._metrics.worker_started(message)
                    self._client.worker_up(link, message)
                else:
                    self._client.receive(message)
            except Exception:
                logger.exception("a message of the worker could not be handled")

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        limit = self._patience.silence
        while True:
            await asyncio.sleep(min(limit / 4, 5.0))
            if self._client.worker_owes and monotonic() - self._client.moved > limit:
                logger.error("the worker has said nothing for %g s with work to do: killing it", limit)
                process.kill()
                return

    def _next_pause(self) -> float | None:
        """Seconds until the next start; None: it has died too often."""
        now = monotonic()
        self._recent.append(now)
        while self._recent[0] < now - self._patience.within:
            self._recent.popleft()
        if len(self._recent) >= self._patience.deaths:
            return None
        return self._patience.first_pause * float(2 ** (len(self._recent) - 1))


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
