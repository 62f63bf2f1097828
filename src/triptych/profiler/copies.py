"""Bytes from place to place: between host and device, between processes, between the members of a group."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import zmq

from triptych.profiler.statistics import Row, row, undisturbed

SIZES = tuple(4**power for power in range(6, 14))
"""Bytes: 4 KiB to 64 MiB."""
QUICK_SIZES = SIZES[:5:2]
_WARM_UP = 3


def measure_copies(device: str, sizes: Sequence[int], repeats: int) -> Iterator[tuple[str, list[Row]]]:
    """Copies to the device and back, or within memory on the CPU, and messages between two processes.

    Yields:
        A name, and rows `copy` or `message` by bytes: seconds one way.
    """
    rows = [_row("copy", _copies(device, size, repeats), size) for size in sizes]
    yield "copies", rows
    with TemporaryDirectory() as folder:
        yield "messages", list(_messages(folder, sizes, repeats))


def measure_collectives(
    members: Sequence[int], sizes: Sequence[int], repeats: int
) -> Iterator[tuple[str, list[Row]]]:
    """All-reduces of bf16 between processes: gloo on the CPU, NCCL where there is a GPU for each.

    Yields:
        A name, and rows `all-reduce` by members and bytes.
    """
    for count in members:
        with TemporaryDirectory() as folder:
            yield f"all-reduce {count}", _all_reduce(count, folder, sizes, repeats)


def _row(name: str, seconds: Sequence[float], size: int, **more: int) -> Row:
    taken = np.array(seconds)
    return row(name, taken[undisturbed(taken)], {"model": "", "bytes": size, **more})


def _copies(device: str, size: int, repeats: int) -> list[float]:
    source = torch.ones(size, dtype=torch.uint8, pin_memory=device == "cuda")
    target = torch.empty(size, dtype=torch.uint8, device=device)

    def copy() -> None:
        target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()

    return _timed(copy, repeats)


def _messages(folder: str, sizes: Sequence[int], repeats: int) -> Iterator[Row]:
    """Half of the way there and back over the kind of socket that joins front end and worker."""
    addresses = [f"ipc://{folder}/there", f"ipc://{folder}/back"]
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    push, pull = context.socket(zmq.PUSH), context.socket(zmq.PULL)
    push.bind(addresses[0])
    pull.bind(addresses[1])
    other = multiprocessing.get_context("spawn").Process(target=_echo, args=addresses, daemon=True)
    other.start()
    try:
        for size in sizes:
            message = bytes(size)

            def there_and_back(message: bytes = message) -> None:
                push.send(message)
                pull.recv()

            yield _row("message", [taken / 2 for taken in _timed(there_and_back, repeats)], size)
        push.send(b"")
        other.join(5)
    finally:
        other.kill()
        context.destroy(linger=0)


def _echo(inbox: str, outbox: str) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    pull, push = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    pull.connect(inbox)
    push.connect(outbox)
    while message := pull.recv():
        push.send(message)
    context.destroy(linger=0)


def _all_reduce(members: int, folder: str, sizes: Sequence[int], repeats: int) -> list[Row]:
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    processes = [
        spawn.Process(target=_member, args=(rank, members, folder, sizes, repeats, theirs), daemon=True)
        for rank in range(members)
    ]
    for process in processes:
        process.start()
    theirs.close()
    try:
        measured: list[tuple[int, list[float]]] = ours.recv()
    except EOFError:
        raise RuntimeError(f"the group of {members} processes broke down") from None
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    return [_row("all-reduce", seconds, size, members=members) for size, seconds in measured]


def _member(
    rank: int, members: int, folder: str, sizes: Sequence[int], repeats: int, answer: Connection
) -> None:
    gpus = torch.cuda.device_count() >= members
    device = torch.device("cuda", rank) if gpus else torch.device("cpu")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "nccl" if gpus else "gloo", init_method=f"file://{folder}/group", rank=rank, world_size=members
    )
    measured = []
    for size in sizes:
        values = torch.ones(size // 2, dtype=torch.bfloat16, device=device)

        def reduce(values: Any = values) -> None:
            dist.all_reduce(values)
            values.fill_(1.0)
            if gpus:
                torch.cuda.synchronize()

        measured.append((size, _timed(reduce, repeats)))
    if rank == 0:
        answer.send(measured)
    dist.destroy_process_group()


def _timed(action: Callable[[], None], repeats: int) -> list[float]:
    taken = []
    for index in range(_WARM_UP + repeats):
        begin = perf_counter()
        action()
        if index >= _WARM_UP:
            taken.append(perf_counter() - begin)
    return taken
