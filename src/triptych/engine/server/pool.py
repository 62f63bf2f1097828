"""A few threads for what would hold up the event loop: long texts, images, large messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_THREADS = 4


class Pool:
    """Runs functions in threads, no more than a few at once."""

    def __init__(self, threads: int = _THREADS) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="triptych")

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """What the function returns."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, function, *arguments)

    def close(self) -> None:
        """Drops what has not begun."""
        self._executor.shutdown(wait=False, cancel_futures=True)
