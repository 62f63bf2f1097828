"""Sends the requests of a workload when they are due, whatever becomes of those before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic

from triptych.bench.ahead import Ahead
from triptych.bench.answer import Answer
from triptych.bench.client import Client
from triptych.workload import Requests

_Send = Callable[[int, bytes], Awaitable[None]]


async def drive(
    client: Client,
    path: str,
    requests: Requests,
    ahead: Ahead,
    answers: Sequence[Answer],
    begin: float,
    ended: Callable[[], None],
) -> None:
    """Sends all requests and reads all answers; what is there when it is cancelled stays in `answers`.

    Args:
        client: of the server.
        path: of the API.
        requests: the workload.
        ahead: its bodies.
        answers: are filled, one a request.
        begin: reading of the monotonic clock that is time 0 of the workload.
        ended: called after each request.
    """

    async def send(index: int, body: bytes) -> None:
        patience, by_abort = requests.patience[index], requests.gives_up_by_abort[index]
        await client.send(path, body, answers[index], float(patience), bool(by_abort))
        ended()

    if requests.concurrency is not None:
        await _closed_loop(requests.concurrency, ahead, len(requests), send)
        return
    async with asyncio.TaskGroup() as group:
        for index, due in enumerate(requests.arrival.tolist()):
            body = await ahead.take()
            wait = begin + due - monotonic()
            # Even without a wait: tasks begin when this one pauses.
            await asyncio.sleep(max(wait, 0.0))
            group.create_task(send(index, body))


async def _closed_loop(concurrency: int, ahead: Ahead, count: int, send: _Send) -> None:
    indices = iter(range(count))
    turn = asyncio.Lock()

    async def one_after_another() -> None:
        while True:
            async with turn:
                index = next(indices, None)
                if index is None:
                    return
                body = await ahead.take()
            await send(index, body)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, count)):
            group.create_task(one_after_another())
