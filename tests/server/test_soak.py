"""Many requests of all kinds at once, and workers that die among them: all end, and nothing is left."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from triptych.engine.server.server import Settings
from triptych.engine.server.supervisor import Patience

from .serving import ByteImages, Served, running
from .test_images import ask, data_url
from .wire import assert_clean, post, send_raw, texts

REQUESTS = 400
KILL_EVERY = 400
"""Requests: some three seconds, in which no request can meet three deaths."""


def one(served: Served, number: int) -> str:
    """One request; what kind of request it was."""
    chance = random.Random(number)
    say = f"answer {number} " * chance.randrange(1, 4)
    script = {"say": say, "delay": 0.002}
    kind = chance.choice(["whole", "stream", "image", "gone", "malformed", "large", "refused", "late"])
    if kind == "whole":
        answer = served.complete(script)
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["text"] == say[:50]
    elif kind == "stream":
        assert texts(served.complete(script, stream=True)) == say[:50]
    elif kind == "image":
        assert ask(served, data_url()).json()["choices"][0]["message"]["content"] == "seen"
    elif kind == "gone":
        prompt = json.dumps({"delay": 0.05})
        body = json.dumps({"prompt": prompt, "max_tokens": 500, "stream": chance.random() < 0.5})
        connection = send_raw(served, post("/v1/completions", body.encode()))
        with suppress(TimeoutError, socket.timeout):
            connection.settimeout(chance.random() / 5)
            connection.recv(1000)
        connection.close()
    elif kind == "malformed":
        body = chance.choice([b"{", b"\xff", b'{"prompt": 5}', b"[" * 5000])
        assert served.http.post("/v1/completions", content=body).status_code == 400
    elif kind == "large":
        assert served.http.post("/v1/completions", content=b"x" * 2**18).status_code == 413
    elif kind == "refused":
        assert served.complete(script, tools=[{}]).status_code == 400
    else:
        assert served.complete({"delay": 3}).status_code == 504
    return kind


def test_nothing_hangs_and_nothing_is_left(tmp_path: Path) -> None:
    patience = Patience(deaths=1000, first_pause=0.01, within=0.1)
    settings = Settings(port=0, max_body_mb=0.125, request_timeout=2, patience=patience)
    with running(tmp_path, settings, images=ByteImages()) as served, ThreadPoolExecutor(40) as threads:
        answers = [threads.submit(one, served, number) for number in range(REQUESTS)]
        for number, answer in enumerate(answers):
            answer.result(60)
            if number % KILL_EVERY == KILL_EVERY // 2:
                pid = served.server.supervisor.pid
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
        assert len({answer.result() for answer in answers}) == 8
        assert_clean(served)
        served.wait_until(served.is_ready)
        assert served.complete({"say": "still here"}).json()["choices"][0]["text"] == "still here"
