"""What goes over a connection, and what is left when it is over."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx

from .serving import Served


def events(text: str) -> list[Any]:
    """The data of server-sent events, which are all that a stream holds."""
    blocks = text.split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    data = [block.removeprefix("data: ") for block in blocks]
    return [piece if piece == "[DONE]" else json.loads(piece) for piece in data]


def texts(answer: httpx.Response) -> str:
    """The text of a streamed completion."""
    return "".join(chunk["choices"][0]["text"] for chunk in events(answer.text)[:-1])


def send_raw(served: Served, data: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", served.server.port), timeout=10)
    connection.sendall(data)
    return connection


def post(path: str, body: bytes, length: int | None = None, headers: str = "") -> bytes:
    size = len(body) if length is None else length
    said = f"host: localhost\r\ncontent-type: application/json\r\ncontent-length: {size}\r\n"
    head = f"POST {path} HTTP/1.1\r\n{said}{headers}\r\n"
    return head.encode() + body


def leftovers(served: Served) -> tuple[int, int, int, int]:
    front = served.server.front
    return front.in_flight, front.client.under_way, front.queue.length, front.bodies.held


def assert_clean(served: Served) -> None:
    """Nothing is left of any request; the last byte of an answer is out a little before that."""
    served.wait_until(lambda: leftovers(served) == (0, 0, 0, 0))
