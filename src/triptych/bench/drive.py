"""Sends the requests of a workload when they are due, unless as many as may be are in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic

from triptych.bench.ahead import Ahead
from triptych.bench.answer import Answer
from triptych.bench.client import Client
from triptych.workload import Requests


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
    room = None if requests.concurrency is None else asyncio.Semaphore(requests.concurrency)

    async def send(index: int, body: bytes) -> None:
        patience, by_abort = requests.patience[index], requests.gives_up_by_abort[index]
        try:
            await client.send(path, body, answers[index], float(patience), bool(by_abort))
        finally:
            if room is not None:
                room.release()
        ended()

    async with asyncio.TaskGroup() as group:
        for index, due in enumerate((requests.arrival + begin).tolist()):
            body = await ahead.take()
            # Even without a wait: tasks begin when this one pauses.
            await asyncio.sleep(max(due - monotonic(), 0.0))
            if room is not None:
                await room.acquire()
            group.create_task(send(index, body))
