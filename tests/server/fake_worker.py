"""A worker process without a model: it does what the prompt says, which makes faults a matter of asking.

The prompt holds JSON in braces, `{"say": "hello", "die": 3}`; tokens are bytes. What has been generated is
counted from behind it (or behind the assistant's token, in a chat), so that a prompt with the tokens so far
appended is gone on with. What the front end asks for is written to `events.jsonl` in the state folder.

    say      text to answer with, and then end; without it the alphabet without end
    bytes    the same in hexadecimal
    tokens   the same as a list of tokens
    delay    seconds for each token
    wait     seconds before the first token
    die      tokens after which the process kills itself, once for each prompt, or `times` as often
    hang     tokens after which the process does nothing any more, once
    garbage  whether what is no message comes before the tokens
    fail     a reason to refuse the request, which is at fault where `invalid` is true
    fail_at  tokens after which it fails
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from triptych.engine.messages import (
    Abort,
    Failed,
    Finish,
    Load,
    Ready,
    Round,
    Shutdown,
    Submit,
    TokenLogprob,
    Tokens,
    encode,
    to_worker,
)

END = 256
ASSISTANT = 259
IMAGE = 260
ALPHABET = b"abcdefghijklmnopqrstuvwxyz"
_DELAY = 0.001


@dataclass
class Running:
    """A request and what is to come of it."""

    submit: Submit
    script: dict[str, Any]
    text: list[int]
    done: int
    """Tokens of the answer that are there, those of earlier workers included."""
    due: float
    given: int = 0
    """Tokens that this worker gave."""


def start(submit: Submit) -> Running:
    """Reads the script of a prompt."""
    tokens = submit.tokens
    letters = "".join(chr(token) if token < 256 else " " for token in tokens)
    opening, closing = letters.find("{"), letters.find("}")
    script = json.loads(bytes(tokens[opening : closing + 1])) if 0 <= opening < closing else {}
    behind = tokens.index(ASSISTANT) if ASSISTANT in tokens else closing if script else len(tokens) - 1
    if "say" in script:
        text = [*script["say"].encode(), END]
    elif "bytes" in script:
        text = [*bytes.fromhex(script["bytes"]), END]
    elif "tokens" in script:
        text = [*script["tokens"], END]
    else:
        text = list(ALPHABET) * ((len(tokens) + submit.sampling.max_tokens) // len(ALPHABET) + 1)
    due = time.monotonic() + script.get("wait", 0)
    return Running(submit, script, text, len(tokens) - behind - 1, due)


class FakeWorker:
    """Serves scripts between two sockets."""

    def __init__(self, inbox: str, outbox: str, state: Path, context_tokens: int) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._pull, self._push = self._context.socket(zmq.PULL), self._context.socket(zmq.PUSH)
        self._pull.connect(inbox)
        self._push.connect(outbox)
        self._state = state
        self._running: dict[str, Running] = {}
        self._generated = 0
        self._iterations = 0
        self._max_context = context_tokens
        self.closed = False
        self._parent = os.getppid()

    def serve(self) -> None:
        """Works until it is told to stop."""
        self._note("ready", "", pid=os.getpid())
        self._push.send(encode(Ready(os.getpid(), self._max_context, 100, 16)))
        while not self.closed and os.getppid() == self._parent:
            self._read(self._patience())
            outputs = self._step()
            if outputs:
                self._iterations += 1
                self._push.send(encode(Round(outputs, self._load())))
        self._note("closed", "")
        self._push.close(linger=500)

    def _patience(self) -> float:
        now = time.monotonic()
        return min([max(running.due - now, 0) for running in self._running.values()], default=0.2)

    def _read(self, seconds: float) -> None:
        wait = int(seconds * 1000)
        while self._pull.poll(wait):
            message = to_worker(self._pull.recv())
            wait = 0
            if isinstance(message, Shutdown):
                self.closed = True
            elif isinstance(message, Abort):
                self._note("abort", message.id, status=message.status)
                self._running.pop(message.id, None)
            else:
                self._note(
                    "submit",
                    message.id,
                    tokens=len(message.tokens),
                    images=[image.tokens for image in message.images],
                    sampling={
                        name: getattr(message.sampling, name) for name in message.sampling.__struct_fields__
                    },
                    sent=message.sent,
                )
                self._running[message.id] = start(message)

    def _step(self) -> list[Tokens | Failed]:
        outputs: list[Tokens | Failed] = []
        now = time.monotonic()
        for id, running in list(self._running.items()):
            if running.due > now:
                continue
            script, sampling = running.script, running.submit.sampling
            if script.get("garbage") and not running.given:
                self._push.send(b"\xc1 this is none")
                self._push.send(b"")
                self._push.send(encode(Shutdown()))
            if "fail" in script and running.given >= script.get("fail_at", 0):
                outputs.append(Failed(id, script["fail"], invalid=script.get("invalid", False)))
                del self._running[id]
                continue
            for fault in ("die", "hang"):
                if script.get(fault) == running.done and self._first_time(
                    running.submit, script.get("times", 1)
                ):
                    if outputs:
                        self._push.send(encode(Round(outputs, self._load())))
                    if fault == "hang":
                        time.sleep(1e6)
                    self._context.destroy(linger=500)  # what was said is heard
                    os.kill(os.getpid(), signal.SIGKILL)
            token = running.text[running.done]
            running.done += 1
            running.given += 1
            running.due = now + script.get("delay", _DELAY)
            finish: Finish | None = None
            if token in sampling.stop_token_ids or (token == END and not sampling.ignore_eos):
                finish = "stop"
            elif running.given == sampling.max_tokens:
                finish = "length"
            logprobs = None
            if sampling.logprobs is not None:
                top = [(token + rank, -0.5 - rank) for rank in range(sampling.logprobs)]
                logprobs = [TokenLogprob(-0.5, top)]
            self._generated += 1
            outputs.append(
                Tokens(id, [token], finish, logprobs, 16 if len(running.submit.tokens) > 64 else 0)
            )
            if finish:
                del self._running[id]
        return outputs

    def _load(self) -> Load:
        running = len(self._running)
        return Load(0, running, running, 100, 0, self._iterations, 0, self._generated, 0.0, 0.5, 0.25)

    def _first_time(self, submit: Submit, times: int) -> bool:
        """Whether this fault has not happened often enough yet."""
        prompt = bytes(token for token in submit.tokens if token < 256).partition(b"}")[0]
        marker = self._state / f"fault-{hashlib.sha256(prompt).hexdigest()[:16]}"
        count = len(marker.read_text()) if marker.exists() else 0
        marker.write_text("x" * (count + 1))
        return count < times

    def _note(self, kind: str, id: str, **more: object) -> None:
        with (self._state / "events.jsonl").open("a") as file:
            file.write(json.dumps({"kind": kind, "id": id, **more}) + "\n")


def main() -> int:
    """Runs the worker."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--inbox", required=True)
    parser.add_argument("--outbox", required=True)
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--load-seconds", type=float, default=0)
    parser.add_argument("--refuse", action="store_true", help="end as if the model could not be loaded")
    parser.add_argument("--crash", action="store_true", help="die before being ready")
    parser.add_argument("--crash-again", action="store_true", help="die before being ready, later on")
    options = parser.parse_args()
    if options.refuse:
        print("triptych: deployment.yaml: model: no such model; choose another", file=sys.stderr)
        return 2
    again = options.crash_again and (options.state / "events.jsonl").exists()
    if options.crash or again:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(options.load_seconds)
    worker = FakeWorker(options.inbox, options.outbox, options.state, options.context)

    def close(*_: object) -> None:
        worker.closed = True

    signal.signal(signal.SIGTERM, close)
    worker.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
