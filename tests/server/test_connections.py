"""What a client never sends, never ends or never reads holds up no other, and is ended."""

from __future__ import annotations

import json
import socket
import time
from contextlib import ExitStack, suppress

import pytest

from triptych.engine.server import body, connections

from .serving import Served
from .wire import assert_clean, post, send_raw

HEAD = b"GET /health HTTP/1.1\r\nhost: localhost\r\n"
CHUNKED = b"host: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
UPLOAD = b"POST /v1/completions HTTP/1.1\r\n" + CHUNKED


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time-outs that a test can wait for."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(connections, "UNREAD_SECONDS", 0.3)
    monkeypatch.setattr(body, "BODY_SECONDS", 0.3)


def read_all(connection: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    data = b""
    with connection, suppress(ConnectionError):
        while piece := connection.recv(2**16):
            data += piece
    return data


def status(answer: bytes) -> int:
    return int(answer.split()[1])


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("sent", [b"", b"G", HEAD, UPLOAD[:-2]])
def test_who_sends_no_request_is_cut_off(served: Served, sent: bytes) -> None:
    answer = read_all(send_raw(served, sent))
    assert status(answer) == 408 if sent else answer == b""


@pytest.mark.usefixtures("hurried")
def test_so_is_who_sends_a_header_a_byte_at_a_time(served: Served) -> None:
    connection = send_raw(served, HEAD + b"x: ")
    began = time.monotonic()
    with pytest.raises(OSError):
        while time.monotonic() < began + 20:
            connection.sendall(b"x")
            time.sleep(0.02)


@pytest.mark.usefixtures("hurried")
def test_so_is_who_begins_a_second_request(served: Served) -> None:
    answer = read_all(send_raw(served, HEAD + b"\r\n" + HEAD))
    assert [int(part.split()[0]) for part in answer.split(b"HTTP/1.1 ")[1:]] == [200, 408]


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("sent", [post("/v1/completions", b"{", length=10), UPLOAD, UPLOAD + b"1\r\n{\r\n"])
def test_so_is_who_sends_half_a_body(served: Served, sent: bytes) -> None:
    answer = read_all(send_raw(served, sent))
    assert status(answer) == 408
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "body_timeout"
    assert_clean(served)


@pytest.mark.usefixtures("hurried")
def test_so_is_who_goes_on_sending_after_the_answer(served: Served) -> None:
    """The answer does not wait for the body where the body does not matter."""
    connection = send_raw(served, b"POST /nowhere HTTP/1.1\r\n" + CHUNKED)
    began = time.monotonic()
    with pytest.raises(OSError):
        while time.monotonic() < began + 20:
            connection.sendall(b"1\r\nx\r\n")
            time.sleep(0.02)


@pytest.mark.usefixtures("hurried")
def test_so_is_who_does_not_read_the_answer(served: Served) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", served.server.port))
        script = json.dumps({"delay": 0})
        asked = {"prompt": script, "max_tokens": 4000, "logprobs": 20, "n": 4}
        connection.sendall(post("/v1/completions", json.dumps(asked).encode()))
        served.wait_until(lambda: served.metric('triptych_requests_total{outcome="finished"}') == 1)
        served.http.close()
        served.wait_until(lambda: not served.server._http.server_state.connections, seconds=20)


def test_a_client_that_takes_its_time_between_requests_is_not_cut_off_early(served: Served) -> None:
    with send_raw(served, HEAD + b"\r\n") as connection:
        assert status(connection.recv(1000)) == 200
        time.sleep(1)
        connection.sendall(HEAD)
        time.sleep(1)
        connection.sendall(b"\r\n")
        assert status(connection.recv(1000)) == 200


def test_half_sent_bodies_take_no_place(served: Served) -> None:
    served.server.front.queue.limit = 2
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(send_raw(served, post("/v1/completions", b"{", length=10)))
        served.wait_until(lambda: served.server.front.bodies.held == 5)
        assert served.complete({"say": "hi"}).status_code == 200
    assert_clean(served)


LONG = b"x" * (connections.MAX_HEAD + 1)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(HEAD + b"x: " + LONG, id="a value"),
        pytest.param(HEAD + b"x: " + LONG + b"\r\n\r\n", id="a whole value"),
        pytest.param(HEAD + LONG, id="a name"),
        pytest.param(HEAD + b"x: y\r\n" * 40_000 + b"\r\n", id="many"),
        pytest.param(b"GET /" + LONG, id="a path"),
    ],
)
def test_headers_have_an_end(shared: Served, sent: bytes) -> None:
    answer = read_all(send_raw(shared, sent))
    assert status(answer) == 431
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "headers_too_large"


@pytest.mark.parametrize(
    "piece", [b"0\r\nx: ", b"0\r\n", b"1;"], ids=["a trailer", "trailers", "an extension"]
)
def test_so_have_those_behind_a_body(shared: Served, piece: bytes) -> None:
    connection = send_raw(shared, UPLOAD + piece)
    more = (b"x: y\r\n" if piece == b"0\r\n" else b"x") * 10_000
    with connection, pytest.raises(ConnectionError):
        for _ in range(10_000):
            connection.sendall(more)


def test_long_headers_are_taken(shared: Served) -> None:
    assert shared.http.get("/health", headers={"x": "y" * 2**15}).status_code == 200


def test_a_connection_does_not_hold_any_number_of_requests(shared: Served) -> None:
    slow = post("/v1/completions", json.dumps({"prompt": json.dumps({"say": "x", "wait": 1})}).encode())
    answer = read_all(send_raw(shared, slow + (HEAD + b"\r\n") * 1000))
    assert b"HTTP/1.1 400 " in answer
    assert_clean(shared)


def test_a_large_body_is_not_taken_for_headers(shared: Served) -> None:
    body = json.dumps({"prompt": json.dumps({"say": "hi"}), "metadata": "x" * 2**20}).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body[: -(2**20)]) + b"100000\r\n" + body[-(2**20) :]
    for sent in (post("/v1/completions", body), UPLOAD + chunks + b"\r\n0\r\nx: trailer\r\n\r\n"):
        with send_raw(shared, sent) as connection:
            assert status(connection.recv(1000)) == 200
