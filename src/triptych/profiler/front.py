"""What lies around the scheduler: from a client that sends a request to its first token, less the engine.

The front end of the server runs as it is: HTTP, text to tokens, images to pixels, the sockets to the worker,
and back with text. The worker is another, which answers everything at once with one token (`answers.py`).
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
from PIL import Image

from triptych import catalog
from triptych.engine.images import load_image_reader
from triptych.engine.server.prompts import Images, Vocabulary
from triptych.engine.server.server import Server, Settings
from triptych.engine.tokenizer import load_tokenizer
from triptych.profiler.statistics import Row, row, undisturbed

_IMAGES = (0, 1, 2)
"""In a request, each of 224 x 224 pixels."""
_SIDE = 224
_TOKENS = 64
"""Tokens of text in a request."""
_FIRST = 3
"""Requests of a kind before those that are measured."""
_IDLE = 0.02
"""Seconds between requests: who waits for one sleeps, and has to be woken."""
_PATIENCE = 30.0


def measure_front_end(model: str, repeats: int) -> list[Row]:
    """Rows `front end`: seconds from sending a request with `units` images to its first token.

    Args:
        model: of the catalogue, or a `config.json`; its made tokenizer has as many tokens as its own.
        repeats: requests of each kind.

    Raises:
        OSError: the server cannot be reached.
        TimeoutError: or does not answer.
    """
    name = model.removeprefix(catalog.RANDOM)
    vocabulary = Vocabulary(load_tokenizer(f"{catalog.RANDOM}{name}"))
    images = load_image_reader(f"{catalog.RANDOM}{name}")

    # A model that reads text alone need not have a chat template.
    route = "/v1/completions" if images is None else "/v1/chat/completions"

    def load() -> tuple[Vocabulary, Images | None]:
        return vocabulary, images

    with TemporaryDirectory(prefix="triptych-", dir="/tmp") as folder:
        command = [sys.executable, "-m", "triptych.profiler.answers"]
        server = Server(Settings(port=0), (name,), load, command, Path(folder))
        with asyncio.Runner(loop_factory=server.loop_factory) as runner:
            bodies = {
                count: [
                    _body(vocabulary, count, seed, chat=images is not None)
                    for seed in range(_FIRST + repeats)
                ]
                for count in (_IMAGES if images is not None else _IMAGES[:1])
            }
            taken = runner.run(_measured(server, route, bodies))
    rows = []
    for count, each in taken.items():
        seconds = np.array(each[_FIRST:])
        sizes = {"model": catalog.model(name).name, "units": count}
        rows.append(row("front end", seconds[undisturbed(seconds)], sizes))
    return rows


async def _measured(server: Server, route: str, bodies: dict[int, list[bytes]]) -> dict[int, list[float]]:
    """Seconds of each request, by the images in it."""
    running = asyncio.create_task(server.run())
    try:
        async with asyncio.timeout(_PATIENCE):
            while server.front.not_ready() is not None:
                await asyncio.sleep(0.02)
            taken = {}
            for count, each in bodies.items():
                taken[count] = [await _one(server.port, route, body) for body in each]
            return taken
    finally:
        server.interrupt()
        with suppress(asyncio.CancelledError):
            await running


async def _one(port: int, route: str, body: bytes) -> float:
    """Seconds from sending a request to the first event of its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.sleep(_IDLE)
    began = perf_counter()
    head = (
        f"POST {route} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode("ascii") + body)
    while not (await reader.readline()).startswith(b"data:"):
        if reader.at_eof():
            raise ConnectionError("the front end gave no answer")
    seconds = perf_counter() - began
    await reader.read()
    writer.close()
    await writer.wait_closed()
    return seconds


def _body(vocabulary: Vocabulary, images: int, seed: int, *, chat: bool) -> bytes:
    """Body of a request for one token, with contents that no other has."""
    chance = random.Random(seed)
    text = vocabulary.decode([chance.randrange(256, 1024) for _ in range(_TOKENS)])
    content = [{"type": "text", "text": text}, *_pictures(chance, images)]
    asked = {"messages": [{"role": "user", "content": content}]} if chat else {"prompt": text}
    return json.dumps({**asked, "max_tokens": 1, "stream": True, "temperature": 0}).encode()


def _pictures(chance: random.Random, count: int) -> Iterator[dict[str, object]]:
    for _ in range(count):
        noise = Image.frombytes("RGB", (_SIDE // 8, _SIDE // 8), chance.randbytes(3 * (_SIDE // 8) ** 2))
        file = io.BytesIO()
        noise.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR).save(file, "JPEG", quality=75)
        url = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
        yield {"type": "image_url", "image_url": {"url": url}}
