"""Bodies made ahead of time by threads, within a bound on memory, so that no sending waits for an encoder."""

from __future__ import annotations

import asyncio
import os
from threading import Condition, Thread
from types import TracebackType
from typing import Self

from triptych.bench.bodies import Bodies

_HELD_BYTES = 256 << 20
_MOST_THREADS = 8


class Ahead:
    """Hands out the bodies of a workload in order.

    Args:
        bodies: makes them.
        held_bytes: of bodies that wait to be sent; at most one a thread goes beyond it.
    """

    def __init__(self, bodies: Bodies, held_bytes: int = _HELD_BYTES) -> None:
        self._bodies = bodies
        self._limit = held_bytes
        self._made: dict[int, bytes] = {}
        self._held = 0
        self._next = 0
        self._taken = 0
        self._closed = False
        self._failure: Exception | None = None
        self._changed = Condition()
        self._waiter: tuple[int, asyncio.Event] | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        count = min(os.cpu_count() or 1, _MOST_THREADS)
        self._threads = [Thread(target=self._work, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    async def fill(self) -> None:
        """Waits until as many are made as may be held."""
        while self._failure is None and len(self._made) < len(self._bodies) and self._held <= self._limit:
            await asyncio.sleep(0.01)

    async def take(self) -> bytes:
        """The next body. Only one task may wait for it at a time.

        Raises:
            Exception: whatever the making of a body raised.
        """
        index, self._taken = self._taken, self._taken + 1
        with self._changed:
            here = index in self._made
            if not here:
                event = asyncio.Event()
                self._waiter = (index, event)
        if not here:
            await event.wait()
        with self._changed:
            if self._failure is not None:
                raise self._failure
            body = self._made.pop(index)
            self._held -= len(body)
            self._changed.notify_all()
        return body

    def _work(self) -> None:
        while True:
            with self._changed:
                # A body that is begun is always finished: else one that is waited for could wait in turn
                # for room that later ones take up.
                self._changed.wait_for(lambda: self._closed or self._held <= self._limit)
                if self._closed or self._next >= len(self._bodies):
                    return
                index, self._next = self._next, self._next + 1
            try:
                body = self._bodies.make(index)
            except Exception as error:
                with self._changed:
                    self._failure, self._closed = error, True
                    self._changed.notify_all()
                    self._wake()
                return
            with self._changed:
                self._made[index] = body
                self._held += len(body)
                if self._waiter is not None and self._waiter[0] == index:
                    self._wake()

    def _wake(self) -> None:
        if self._waiter is not None:
            self._loop.call_soon_threadsafe(self._waiter[1].set)
            self._waiter = None
