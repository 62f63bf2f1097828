"""A worker without a model: answers every request at once with one token. `front.py` measures beside it.

python -m triptych.profiler.answers --inbox ADDRESS --outbox ADDRESS

It imports neither torch nor the engine, which would take seconds.
"""

from __future__ import annotations

import argparse
import os

import zmq

from triptych.engine.messages import Load, Ready, Round, Shutdown, Submit, Tokens, encode, to_worker

_TOKEN = 300
"""Any that is text."""
_NOTHING = Load(*[0] * 8, *[0.0] * 3)
_PARENT_CHECK = 1000
"""Milliseconds without a message after which it looks whether there is still somebody to send one."""


def main() -> None:
    """Answers until a message asks it to end, or its parent is gone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--inbox", required=True)
    parser.add_argument("--outbox", required=True)
    given = parser.parse_args()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    pull, push = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    pull.connect(given.inbox)
    push.connect(given.outbox)
    push.send(encode(Ready(os.getpid(), max_context=1 << 20, kv_blocks=1, block_size=1)))
    parent = os.getppid()
    while os.getppid() == parent:
        if not pull.poll(_PARENT_CHECK):
            continue
        message = to_worker(pull.recv())
        if isinstance(message, Shutdown):
            break
        if isinstance(message, Submit):
            push.send(encode(Round([Tokens(message.id, [_TOKEN], "length")], _NOTHING)))
    context.destroy(linger=0)


if __name__ == "__main__":
    main()
