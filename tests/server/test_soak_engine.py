"""Many requests of all kinds against a real model, and workers that die among them.

`TRIPTYCH_SOAK` says how many; 10,000 take minutes, and then memory is watched too.
"""

from __future__ import annotations

import base64
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import psutil
from PIL import Image
from tests.engine import tiny

from .alone import Alone
from .command import Process, declare, served
from .patient import MAX_BODY_MB, TIMEOUT
from .test_end_to_end import photograph, prompts
from .wire import events

REQUESTS = int(os.environ.get("TRIPTYCH_SOAK", "200"))
KILL_EVERY = 300
KILLED = 0.6
"""Share of the run in which workers are killed; the memory of the last one is watched in the rest."""
THREADS = 24
OUTPUT = 12
CONTEXT = 2560
QUESTION = "what is this"
LARGE = 2000
"""Requests of a run that is long enough to tell a leak from a heap that is still filling up."""


class Outages:
    """When there was no worker."""

    def __init__(self, server: Process) -> None:
        self._server = server
        self._spans: list[tuple[float, float]] = []
        self.ends: list[float] = []

    def kill(self) -> None:
        """Kills the worker, and waits for the next."""
        begin = time.monotonic()
        with self._noted(begin):
            self._server.worker.kill()
            while httpx.get(f"{self._server.url}/ready").status_code == 200:
                time.sleep(0.01)
            while httpx.get(f"{self._server.url}/ready").status_code != 200:
                time.sleep(0.05)

    @contextmanager
    def _noted(self, begin: float) -> Iterator[None]:
        self._spans.append((begin, float("inf")))
        yield
        self._spans[-1] = (begin, time.monotonic())

    @property
    def seconds(self) -> list[float]:
        return [end - begin for begin, end in self._spans]

    def met(self, begin: float) -> bool:
        """Whether there was one between then and now."""
        return any(end > begin for _, end in self._spans)


class Soak:
    """Requests by number: always the same for the same number."""

    def __init__(self, server: Process, deployment: Path, outages: Outages) -> None:
        self._server = server
        self._http = httpx.Client(
            base_url=server.url,
            timeout=60,
            limits=httpx.Limits(max_connections=None),
            headers={"content-type": "application/json"},
        )
        self._outages = outages
        alone = Alone(deployment)
        self._texts = [
            (prompt, output, alone.text(alone.completion(prompt, output))) for prompt, output in prompts(24)
        ]
        images = [photograph(seed, 40 + 30 * seed, 60) for seed in range(4)]
        groups = [images[:1], images[1:2], images[2:], images[:3], [images[0], images[0]]]
        self._images = [(group, alone.text(alone.chat(QUESTION, group, OUTPUT))) for group in groups]
        self.kinds: Counter[str] = Counter()
        self.again = 0
        """Requests that ran out of time because there was no worker."""
        self._lock = threading.Lock()

    def one(self, number: int) -> None:
        """Sends a request and checks what comes of it."""
        chance = random.Random(number)
        kinds: dict[Callable[[random.Random], None], int] = {
            self.text: 40, self.image: 15, self.gone: 15, self.malformed: 10, self.oversize: 8, self.late: 1,
        }  # fmt: skip
        (kind,) = chance.choices(list(kinds), list(kinds.values()))
        kind(chance)
        with self._lock:
            self.kinds[kind.__name__] += 1

    def text(self, chance: random.Random) -> None:
        prompt, output, expected = chance.choice(self._texts)
        body = {"prompt": prompt, "max_tokens": output, "stream": chance.random() < 0.5}
        assert self._answer("/v1/completions", body) == expected

    def image(self, chance: random.Random) -> None:
        files, expected = chance.choice(self._images)
        body = {"max_tokens": OUTPUT, "stream": chance.random() < 0.5, **self._messages(files)}
        assert self._answer("/v1/chat/completions", body) == expected

    def gone(self, chance: random.Random) -> None:
        """A client that does not wait for its answer."""
        patience = httpx.Timeout(5, read=chance.random() / 3)
        body: dict[str, Any] = {"max_tokens": 1000, "ignore_eos": True, "stream": chance.random() < 0.5}
        with suppress(httpx.TimeoutException), httpx.Client(base_url=self._server.url) as http:
            if chance.random() < 0.3:
                files, _ = chance.choice(self._images)
                body |= self._messages(files)
                sent = http.stream("POST", "/v1/chat/completions", json=body, timeout=patience)
            else:
                body["prompt"] = chance.choice(self._texts)[0]
                sent = http.stream("POST", "/v1/completions", json=body, timeout=patience)
            end = time.monotonic() + chance.random()
            with sent as answer:
                for _ in answer.iter_raw():
                    if time.monotonic() > end:
                        return

    def malformed(self, chance: random.Random) -> None:
        bodies = (b"{", b"\xff", b'{"prompt": 5}', b"[" * 5000, b'{"prompt": [99999]}', b'{"prompt": ""}')
        self._refused(400, "/v1/completions", content=chance.choice(bodies))

    def oversize(self, chance: random.Random) -> None:
        kind = chance.randrange(4)
        if kind == 0:
            self._refused(413, "/v1/completions", content=b"x" * int(MAX_BODY_MB * 2**20 + 1))
            return
        file = (self._many_pixels, self._many_tokens, photograph(1)[:500])[kind - 1]
        self._refused(400, "/v1/chat/completions", json=self._messages([file]))

    def late(self, chance: random.Random) -> None:
        """Answers that take too long on any machine: each fills the whole KV cache."""
        body = {"prompt": "x", "max_tokens": CONTEXT - 10, "ignore_eos": True, "n": 8}
        assert self._http.post("/v1/completions", json=body).json()["error"]["code"] == "request_timeout"

    def _answer(self, route: str, body: dict[str, Any]) -> str:
        """The text of a greedy answer."""
        return _text(self._send(route, json={**body, "temperature": 0, "ignore_eos": True}))

    def _refused(self, status: int, route: str, **body: Any) -> None:
        """A request that gets an error, some of them from the worker."""
        answer = self._send(route, **body)
        assert answer.status_code == status, answer.text
        assert answer.json()["error"]["message"]

    def _send(self, route: str, **body: Any) -> httpx.Response:
        """An answer, at the second attempt if it took too long because there was no worker."""
        while True:
            begin = time.monotonic()
            answer = self._http.post(route, **body)
            if "request_timeout" not in answer.text:
                return answer
            assert self._outages.met(begin), answer.text
            with self._lock:
                self.again += 1

    def _messages(self, files: list[bytes]) -> dict[str, Any]:
        urls = ["data:image/png;base64," + base64.b64encode(file).decode() for file in files]
        content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        content.append({"type": "text", "text": QUESTION})
        return {"messages": [{"role": "user", "content": content}]}

    @cached_property
    def _many_pixels(self) -> bytes:
        return _plain(8001, 8001)

    @cached_property
    def _many_tokens(self) -> bytes:
        return _plain(2600, 1800)


def _plain(width: int, height: int) -> bytes:
    file = BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


def _text(answer: httpx.Response) -> str:
    """The text of an answer, in one piece or streamed."""
    assert answer.status_code == 200, answer.text
    if "event-stream" not in answer.headers["content-type"]:
        (choice,) = answer.json()["choices"]
        return str(choice["message"]["content"] if "message" in choice else choice["text"])
    text = ""
    for chunk in events(answer.text)[:-1]:
        assert "error" not in chunk, chunk
        (choice,) = chunk["choices"]
        text += choice["delta"].get("content") or "" if "delta" in choice else choice["text"]
    return text


def test_nothing_hangs_nothing_is_left_and_answers_stay_the_same(tmp_path: Path) -> None:
    config = tmp_path / "model.json"
    config.write_text(json.dumps({**tiny.CONFIGS["qwen2_5_vl"], "max_position_embeddings": CONTEXT}))
    deployment = declare(config, tmp_path, embedding_cache="32 KB", kv_blocks=160)
    command = ("-m", "tests.server.patient")
    with (
        served(deployment, command=command) as server,
        ThreadPoolExecutor(THREADS) as threads,
    ):
        outages = Outages(server)
        soak = Soak(server, deployment, outages)
        front, memory = server.process.pid, dict[str, int]()
        began = time.monotonic()
        answers = [threads.submit(soak.one, number) for number in range(REQUESTS)]
        try:
            for number, answer in enumerate(answers):
                answer.result(60 + TIMEOUT)
                if number % KILL_EVERY == 100 and number < KILLED * REQUESTS:
                    outages.kill()
                if number == REQUESTS // 10:
                    memory["server, after a tenth"] = _resident(front)
                if number == int((KILLED + (1 - KILLED) / 10) * REQUESTS):
                    memory["worker, after a tenth of its time"] = _resident(server.worker.pid)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
        took = time.monotonic() - began
        memory["server, at the end"] = _resident(front)
        memory["worker, at the end"] = _resident(server.worker.pid)
        end = time.monotonic() + 10
        while any(server.left().values()) and time.monotonic() < end:
            time.sleep(0.05)
        assert set(server.left().values()) == {0.0}, server.left()
        restarts = server.metric("triptych_worker_restarts_total")
        assert restarts == len(outages.seconds) >= 1
        print(f"{REQUESTS} requests in {took:.0f} s, {restarts:.0f} workers killed: {dict(soak.kinds)}")
        print(f"sent again: {soak.again}; preempted: {server.metric('triptych_preemptions_total'):.0f}")
        print(f"seconds without a worker: {max(outages.seconds):.1f} at the most; bytes: {memory}")
        assert len(soak.kinds) == 6
        if REQUESTS >= LARGE:
            first, worker_first, last, worker_last = memory.values()
            assert last < 1.05 * first
            assert worker_last < 1.05 * worker_first
        soak.text(random.Random(0))
        assert server.stop() == 0


def _resident(pid: int) -> int:
    """Bytes of memory of a process."""
    return int(psutil.Process(pid).memory_info().rss)
