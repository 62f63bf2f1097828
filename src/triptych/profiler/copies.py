"""Bytes from place to place: between host and device, between processes, between the members of a group."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import zmq

from triptych.engine.runner import range_on
from triptych.profiler.statistics import Row, row, undisturbed

SIZES = tuple(4**power for power in range(6, 14))
"""Bytes: 4 KiB to 64 MiB."""
QUICK_SIZES = SIZES[:5:2]
_WARM_UP = 3
_PATIENCE = 60
"""Seconds to wait for a message."""


def measure_copies(device: str, sizes: Sequence[int], repeats: int) -> Iterator[tuple[str, list[Row]]]:
    """Copies to the device and back, or within memory on the CPU, and messages between two processes.

    Yields:
        A name, and rows `copy`, `copy back` or `message` by bytes: seconds one way.
    """
    ways = {"copy": ("cpu", device)} | ({"copy back": (device, "cpu")} if device == "cuda" else {})
    rows = [_row(name, _copies(*way, size, repeats), size) for name, way in ways.items() for size in sizes]
    yield "copies", rows
    with TemporaryDirectory() as folder:
        yield "messages", list(_messages(folder, sizes, repeats))


def measure_collectives(
    device: str, members: Sequence[int], sizes: Sequence[int], repeats: int
) -> Iterator[tuple[str, list[Row]]]:
    """Collectives of bf16 between processes: gloo on the CPU, NCCL on CUDA.

    Yields:
        A name, and rows by members and bytes: of an all-reduce, all-gather or reduce-scatter what a member
        has whole, of an all-to-all what it sends in all.
    """
    for count in members:
        with TemporaryDirectory() as folder:
            yield f"collectives {count}", _group(device, count, folder, sizes, repeats)


def _row(name: str, seconds: Sequence[float], size: int, **more: int | str) -> Row:
    taken = np.array(seconds)
    return row(name, taken[undisturbed(taken)], {"model": "", "bytes": size, **more})


def _copies(from_device: str, to_device: str, size: int, repeats: int) -> list[float]:
    cuda = "cuda" in (from_device, to_device)
    source, target = (
        torch.ones(size, dtype=torch.uint8, device=device, pin_memory=cuda and device == "cpu")
        for device in (from_device, to_device)
    )

    def copy() -> None:
        target.copy_(source)
        if cuda:
            torch.cuda.synchronize()

    with range_on(torch.device("cuda" if cuda else "cpu"))(f"{size} bytes from {from_device} to {to_device}"):
        return _timed(copy, repeats)


def _messages(folder: str, sizes: Sequence[int], repeats: int) -> Iterator[Row]:
    """Half of the way there and back over the kind of socket that joins front end and worker."""
    addresses = [f"ipc://{folder}/there", f"ipc://{folder}/back"]
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    push, pull = context.socket(zmq.PUSH), context.socket(zmq.PULL)
    push.bind(addresses[0])
    pull.bind(addresses[1])
    other = subprocess.Popen([sys.executable, "-m", "triptych.profiler.echo", *addresses])
    try:
        for size in sizes:
            message = bytes(size)

            def there_and_back(message: bytes = message) -> None:
                push.send(message)
                if not pull.poll(_PATIENCE * 1000):
                    raise RuntimeError(f"the other process gave no message back in {_PATIENCE} s")
                pull.recv()

            yield _row("message", [taken / 2 for taken in _timed(there_and_back, repeats)], size)
        push.send(b"")
        with suppress(subprocess.TimeoutExpired):
            other.wait(5)
    finally:
        other.kill()
        other.wait()
        context.destroy(linger=0)


def _group(device: str, members: int, folder: str, sizes: Sequence[int], repeats: int) -> list[Row]:
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    processes = [
        spawn.Process(
            target=_member, args=(device, rank, members, folder, sizes, repeats, theirs), daemon=True
        )
        for rank in range(members)
    ]
    for process in processes:
        process.start()
    theirs.close()
    try:
        measured: list[tuple[str, int, list[float]]] = ours.recv()
    except EOFError:
        raise RuntimeError(f"the group of {members} processes broke down") from None
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    return [_row(name, seconds, size, members=members, precision="bf16") for name, size, seconds in measured]


def _member(
    device: str,
    rank: int,
    members: int,
    folder: str,
    sizes: Sequence[int],
    repeats: int,
    answer: Connection,
) -> None:
    place = torch.device("cuda", rank) if device == "cuda" else torch.device("cpu")
    if device == "cuda":
        torch.cuda.set_device(place)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        init_method=f"file://{folder}/group",
        rank=rank,
        world_size=members,
    )
    measured = []
    for size in sizes:
        whole = torch.zeros(size // 2 // members * members, dtype=torch.bfloat16, device=place)
        other, share = torch.zeros_like(whole), whole[: len(whole) // members].clone()
        runs: dict[str, Callable[[], Any]] = {
            "all-reduce": partial(dist.all_reduce, whole),
            "all-gather": partial(dist.all_gather_into_tensor, whole, share),
            "reduce-scatter": partial(dist.reduce_scatter_tensor, share, whole),
            "all-to-all": partial(dist.all_to_all_single, other, whole),
        }
        for name, run in runs.items():

            def together(run: Callable[[], Any] = run) -> None:
                run()
                if device == "cuda":
                    torch.cuda.synchronize()

            dist.barrier()
            with range_on(place)(f"{name} of {size} bytes"):
                measured.append((name, size, _timed(together, repeats)))
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
