"""A server in a thread, with the fake worker behind it, and what tests ask of it."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from triptych.engine.messages import ImageInput
from triptych.engine.server.letters import byte_letters
from triptych.engine.server.prompts import Images, Vocabulary
from triptych.engine.server.server import Server, Settings

SPECIAL = ("<|end|>", "<|user|>", "<|system|>", "<|assistant|>", "<|image|>")
"""From token 256 on, as the fake worker knows them."""
TEMPLATE = """\
{%- if tools -%}{%- for tool in tools -%}[{{ tool.function.name }}]{%- endfor -%}{%- endif -%}
{%- for message in messages -%}
<|{{ message.role if message.role == 'system' else 'user' }}|>
{%- for call in message.tool_calls or [] -%}
{{ call.function.name }}({{ call.function.arguments.where }}){% endfor -%}
{%- if message.tool_call_id is defined -%}{{ message.tool_call_id }}= {% endif -%}
{%- if message.name is defined -%}{{ message.name }}: {% endif -%}
{%- if message.content is string -%}{{ message.content }}
{%- else -%}{%- for part in message.content -%}
{{ '<|image|>' if part.type == 'image' else part.text }}
{%- endfor -%}{%- endif -%}
{%- endfor -%}
{%- if refuse is defined -%}{{ raise_exception('no') }}{%- endif -%}
<|assistant|>"""


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Token = byte, and a few special ones."""
    vocabulary = byte_letters()
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=TEMPLATE)


class ByteImages:
    """An image has as many tokens as its file has bytes."""

    placeholder = 260

    def tokens(self, file: bytes) -> int:
        if not file.startswith(b"IMG"):
            raise ValueError("not an image that can be read")
        return len(file)

    def read(self, file: bytes) -> ImageInput:
        return ImageInput(hash(file) % 2**63, (1, 1, len(file)), self.tokens(file), b"\0" * 3 * len(file))


class Served:
    """A running server."""

    def __init__(self, server: Server, state: Path) -> None:
        self.server = server
        self.state = state
        self.url = f"http://127.0.0.1:{server.port}"
        self.http = httpx.Client(base_url=self.url, timeout=20, headers={"content-type": "application/json"})
        self.code: int | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self._runner: asyncio.Runner | None = None

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self.server.loop_factory) as runner:
            self._runner = runner
            self.code = runner.run(self.server.run())

    def start(self) -> None:
        self.thread.start()
        self.wait_until(lambda: self._runner is not None)

    def interrupt(self) -> None:
        """What a signal does."""
        assert self._runner is not None
        self._runner.get_loop().call_soon_threadsafe(self.server.interrupt)

    def close(self) -> None:
        self.http.close()
        for _ in range(2):
            if self.thread.is_alive():
                with suppress(RuntimeError):  # it has just ended
                    self.interrupt()
        self.thread.join(10)
        assert not self.thread.is_alive(), "the server does not end"

    def wait_until(self, done: Callable[[], object], seconds: float = 10) -> None:
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, "it did not come to pass"
            time.sleep(0.01)

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """What the worker was asked for."""
        file = self.state / "events.jsonl"
        if not file.exists():
            return []
        lines = file.read_text().splitlines()
        found = [json.loads(line) for line in lines]
        return [event for event in found if kind is None or event["kind"] == kind]

    def is_ready(self) -> bool:
        return self.http.get("/ready").status_code == 200

    def complete(self, script: dict[str, Any] | str, **more: Any) -> httpx.Response:
        """A completion of a scripted prompt."""
        prompt = script if isinstance(script, str) else json.dumps(script)
        return self.http.post("/v1/completions", json={"prompt": prompt, "max_tokens": 50, **more})

    def chat(self, script: dict[str, Any] | str, **more: Any) -> httpx.Response:
        content = script if isinstance(script, str) else json.dumps(script)
        messages = [{"role": "user", "content": content}]
        return self.http.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 50, **more})

    def metric(self, name: str) -> float:
        """One line of /metrics, over a connection of its own: a kept one may just be being closed."""
        answer = httpx.get(f"{self.url}/metrics", timeout=20)
        for line in answer.text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[-1])
        raise KeyError(name)


def make_server(
    folder: Path, settings: Settings, worker: tuple[str, ...] = (), images: Images | None = None
) -> Server:
    """A server with a fake worker, not running yet; arguments as of `running`."""
    script = str(Path(__file__).with_name("fake_worker.py"))
    command = [sys.executable, script, "--state", str(folder), *worker]
    vocabulary = Vocabulary(byte_tokenizer())
    return Server(settings, ("toy", "random:toy"), lambda: (vocabulary, images), command, folder)


@contextmanager
def running(
    folder: Path,
    settings: Settings | None = None,
    *,
    worker: tuple[str, ...] = (),
    images: Images | None = None,
    ready: bool = True,
) -> Iterator[Served]:
    """A server with a fake worker, on a free port.

    Args:
        folder: for its sockets and its worker's notes.
        settings: of the server.
        worker: arguments of the fake worker.
        images: reads images.
        ready: whether to wait for the worker.
    """
    server = make_server(folder, settings or Settings(port=0), worker, images)
    served = Served(server, folder)
    served.start()
    try:
        if ready:
            served.wait_until(served.is_ready)
        yield served
    finally:
        served.close()


def serve_here(folder: Path) -> int:
    """A server in this process, which ends with a signal."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    server = make_server(folder, Settings(port=0))
    with asyncio.Runner(loop_factory=server.loop_factory) as runner:
        return runner.run(server.run())
