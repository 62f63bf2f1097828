"""Gives back what it is sent: the other process of the messages that `copies.py` measures.

    python -m triptych.profiler.echo INBOX OUTBOX

A program of its own, since a copy of the measuring process would import torch first, which takes seconds.
"""

from __future__ import annotations

import os
import sys

import zmq

_PARENT_CHECK = 1000
"""Milliseconds without a message after which it looks whether there is still somebody to send one."""


def main(inbox: str, outbox: str) -> None:
    """Gives messages back until an empty one comes, or whoever started this is gone.

    Args:
        inbox: address to which they are sent.
        outbox: address that waits for them.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    pull, push = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    pull.connect(inbox)
    push.connect(outbox)
    parent = os.getppid()
    while os.getppid() == parent:
        if not pull.poll(_PARENT_CHECK):
            continue
        message = pull.recv()
        if not message:
            break
        push.send(message)
    context.destroy(linger=0)


if __name__ == "__main__":
    main(*sys.argv[1:])
