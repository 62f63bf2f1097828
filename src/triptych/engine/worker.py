"""The worker process: an engine between two sockets, bound by its parent; what goes over them: `messages.py`.

    python -m triptych.engine.worker --deployment FILE --inbox ADDRESS --outbox ADDRESS [--record DIR]
        [--declared-in FILE] [--profile-batches N]

What goes wrong before it is ready is one line on standard error and exit code 2; it names the file that the
user wrote. The worker ends when it is told to, on SIGTERM, and when its parent is gone.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import zmq

from triptych.engine.build import Instance, build
from triptych.engine.messages import Abort, Ready, Round, Shutdown, Submit, encode, to_worker
from triptych.engine.trace import Tracer
from triptych.spec.base import SpecError
from triptych.spec.deployment import Deployment

_PARENT_CHECK = 1000
"""Milliseconds without work after which the worker looks whether its parent still lives."""


class Inbox:
    """Messages from the front end.

    Args:
        socket: a PULL socket.
    """

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self.closed = False
        """Whether there is nobody any more to work for."""
        self._parent = os.getppid()

    def read(self, *, wait: bool) -> Iterator[Submit | Abort]:
        """All that has come; with `wait`, at least one message if nothing else ends the waiting."""
        while not self.closed:
            if wait and not self._socket.poll(_PARENT_CHECK):
                self.closed = os.getppid() != self._parent
                return
            wait = False
            try:
                data = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                message = to_worker(data)
            except msgspec.DecodeError as error:
                print(f"worker: dropped a message that is none: {error}", file=sys.stderr, flush=True)
                continue
            if isinstance(message, Shutdown):
                self.closed = True
                return
            yield message


def work(
    instance: Instance, inbox: Inbox, send: Callable[[bytes], object], tracer: Tracer | None = None
) -> None:
    """Serves until the inbox is closed.

    Args:
        instance: what serves.
        inbox: messages from the front end.
        send: takes those to it.
        tracer: watches the first batches.
    """
    engine = instance.engine
    compute = engine.compute if tracer is None else tracer.compute
    scheduler = engine.scheduler
    kv, context = scheduler.kv, engine.admission.max_context
    ready = Ready(os.getpid(), context, kv.blocks, kv.block_size, instance.plan.longest_iteration(context))
    send(encode(ready))
    while not inbox.closed:
        was_busy = engine.busy
        messages = list(inbox.read(wait=not was_busy))  # before the clock is read
        outputs = engine.turn(messages)
        if outputs or was_busy:
            send(encode(Round(outputs, engine.load())))
        compute()


def main(arguments: list[str] | None = None) -> int:
    """Runs a worker.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="triptych.engine.worker")
    parser.add_argument("--deployment", type=Path, required=True)
    parser.add_argument("--inbox", required=True)
    parser.add_argument("--outbox", required=True)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--profile-batches", type=int, default=0, help="to watch; needs --record")
    parser.add_argument("--declared-in", type=Path, help="where the user declared it, for errors")
    options = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, format="triptych: %(message)s", level=logging.WARNING)
    logging.getLogger("triptych.engine").setLevel(logging.INFO)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    pull, push = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    for socket, address in ((pull, options.inbox), (push, options.outbox)):
        socket.set_hwm(0)  # how much may wait is decided once, by the front end's bounded queue
        socket.connect(address)
    inbox = Inbox(pull)

    def close(*_: object) -> None:
        inbox.closed = True

    signal.signal(signal.SIGTERM, close)
    try:
        declared = Deployment.load(options.deployment)
        instance = build(declared, options.declared_in or options.deployment, record=options.record)
    except SpecError as error:
        print(f"triptych: {error}", file=sys.stderr)
        return 2
    tracer = None
    if options.profile_batches:
        tracer = Tracer(instance.engine, instance.plan, options.profile_batches)
    work(instance, inbox, push.send, tracer)
    try:
        instance.write_record()
    except (OSError, SpecError) as error:
        print(f"triptych: the worker could not write the record: {error}", file=sys.stderr)
        return 1
    finally:
        instance.close()
    if tracer is not None:
        tracer.write(options.record)
    push.close(linger=1000)
    return 0


if __name__ == "__main__":
    sys.exit(main())
