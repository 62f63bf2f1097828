"""Threads for what would hold up the event loop: long texts, images, large messages."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

_THREADS = 4
_QUICK = 16 * 2**10
"""Bytes of input that are dealt with on the spot: about a millisecond, less than threads cost under load."""
LARGE = 2**20
"""Bytes of input from which on one is dealt with at a time: it may take a gigabyte and all of a core."""


class Pool:
    """Runs functions in threads, no more than a few at once."""

    def __init__(self, threads: int = _THREADS) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="triptych")
        self._single = ThreadPoolExecutor(1, thread_name_prefix="triptych-large")

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """What the function returns."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    async def fit(self, size: int, function: Callable[..., T], *arguments: object) -> T:
        """What the function returns, which is called where the size of its input says.

        Args:
            size: bytes.
            function: does not hold the interpreter for long at a time.
            arguments: of the function.
        """
        if size <= _QUICK:
            return function(*arguments)
        executor = self._executor if size <= LARGE else self._single
        return await asyncio.get_running_loop().run_in_executor(executor, function, *arguments)

    def give_back(self) -> None:
        """Has the C library give freed memory back to the system, which it would keep for later."""
        self._single.submit(_trim)

    def close(self) -> None:
        """Drops what has not begun."""
        for executor in (self._executor, self._single):
            executor.shutdown(wait=False, cancel_futures=True)


def _trim() -> None:
    with suppress(OSError, AttributeError):  # other C libraries than GNU's have no such function
        ctypes.CDLL(None).malloc_trim(0)
