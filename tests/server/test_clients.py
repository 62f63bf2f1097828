"""A client that goes, waits too long or asks for too much leaves nothing behind."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from triptych.engine.server.server import Settings

from .serving import Served, running
from .wire import assert_clean, events, post, send_raw

SLOW = {"delay": 0.05}
"""An answer that takes as long as it may."""


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_ends_its_request(served: Served, stream: bool) -> None:
    body = json.dumps({"prompt": json.dumps(SLOW), "max_tokens": 2000, "stream": stream}).encode()
    connection = send_raw(served, post("/v1/completions", body))
    served.wait_until(lambda: served.events("submit"))
    if stream:
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    connection.close()
    served.wait_until(lambda: served.events("abort"), seconds=2)
    assert served.events("abort")[0]["status"] == "aborted"
    assert_clean(served)
    assert served.metric('triptych_requests_total{outcome="aborted"}') == 1


def test_a_client_that_goes_while_it_sends_leaves_nothing(served: Served) -> None:
    connection = send_raw(served, post("/v1/completions", b'{"prompt": ', length=1000))
    served.wait_until(lambda: served.server.front.bodies.held)
    connection.close()
    assert_clean(served)
    assert served.events("submit") == []


def test_a_request_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with running(tmp_path, Settings(port=0, request_timeout=0.4)) as served:
        answer = served.complete({"delay": 0.1})
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "request_timeout")
        served.wait_until(lambda: served.events("abort"))
        assert served.events("abort")[0]["status"] == "timed_out"
        *_, error, done = events(served.complete({"delay": 0.1}, stream=True).text)
        assert (error["error"]["code"], done) == ("request_timeout", "[DONE]")
        connection = send_raw(served, post("/v1/completions", b"{", length=1000))
        assert b" 504 " in connection.recv(100)
        assert_clean(served)


def test_the_queue_is_bounded(tmp_path: Path) -> None:
    with running(tmp_path, Settings(port=0, max_queue=2)) as served, ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(served.complete, {"say": "hi", "wait": 0.5, "x": i}) for i in range(2)]
        served.wait_until(lambda: len(served.events("submit")) == 2)
        answer = served.complete({"say": "hi"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["error"]["code"] == "server_overloaded"
        assert [other.result().status_code for other in waiting] == [200, 200]
        assert served.complete({"say": "hi"}, n=2).status_code == 200
        assert served.complete({"say": "hi"}, n=3).status_code == 400
        assert_clean(served)


def test_answers_that_have_begun_leave_the_queue(tmp_path: Path) -> None:
    with running(tmp_path, Settings(port=0, max_queue=1)) as served, ThreadPoolExecutor(1) as threads:
        slow = threads.submit(served.complete, {"say": "x" * 20, "delay": 0.05})
        served.wait_until(lambda: served.events("submit") and served.server.front.queue.length == 0)
        assert served.complete({"say": "hi"}).status_code == 200
        assert slow.result().status_code == 200


def test_an_id_is_under_way_once(served: Served) -> None:
    headers = {"X-Request-Id": "twice"}

    def ask(delay: float) -> httpx.Response:
        prompt = json.dumps({"say": "hello", "delay": delay})
        return httpx.post(f"{served.url}/v1/completions", json={"prompt": prompt}, headers=headers)

    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(ask, 0.1)
        served.wait_until(lambda: served.events("submit"))
        again = ask(0)
        assert (again.status_code, again.json()["error"]["code"]) == (409, "duplicate_request_id")
        assert slow.result().status_code == 200
    assert ask(0).status_code == 200


@pytest.mark.parametrize("id", ["", "a b", "x" * 129])
def test_an_id_must_be_readable(served: Served, id: str) -> None:
    answer = served.http.post("/v1/completions", json={"prompt": "x"}, headers={"X-Request-Id": id})
    assert answer.status_code == 400


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_is_bounded(tmp_path: Path, chunked: bool) -> None:
    with running(tmp_path, Settings(port=0, max_body_mb=0.25)) as served:
        pieces = [b"x" * 2**16] * 5
        content: Any = iter(pieces) if chunked else b"".join(pieces)
        answer = served.http.post("/v1/completions", content=content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
        assert served.complete({"say": "hi"}).status_code == 200
        assert_clean(served)


def test_a_body_without_end_is_cut_off(tmp_path: Path) -> None:
    with running(tmp_path, Settings(port=0, max_body_mb=0.25)) as served:
        head = b"POST /v1/completions HTTP/1.1\r\ncontent-type: application/json\r\n"
        head += b"transfer-encoding: chunked\r\n\r\n"
        connection = send_raw(served, head)
        sent = 0
        with pytest.raises(OSError):
            while sent < 2**26:
                connection.sendall(b"10000\r\n" + b"x" * 2**16 + b"\r\n")
                sent += 2**16
        assert sent < 2**24


def test_large_bodies_together_are_bounded(served: Served) -> None:
    served.server.front.bodies._total = 2**16
    assert served.complete("x" * 2**17).status_code == 503
    assert served.complete({"say": "hi"}).status_code == 200


def test_eight_large_photographs_fit_into_a_body() -> None:
    assert Settings().max_body_mb * 2**20 > 32e6 * 4 / 3 + 2**20


def test_a_client_that_does_not_read_holds_up_nobody(served: Served) -> None:
    prompt = json.dumps({"delay": 0})
    body = json.dumps({"prompt": prompt, "max_tokens": 4000, "stream": True, "logprobs": 20, "n": 4}).encode()
    connections = [send_raw(served, post("/v1/completions", body)) for _ in range(3)]
    assert served.complete({"say": "hi"}).json()["choices"][0]["text"] == "hi"
    for connection in connections:
        connection.close()
    assert_clean(served)


def test_many_at_once_are_all_answered(served: Served) -> None:
    def ask(number: int) -> str:
        answer = served.complete({"say": f"answer {number}", "wait": 0.2})
        return str(answer.json()["choices"][0]["text"])

    with ThreadPoolExecutor(100) as threads:
        assert list(threads.map(ask, range(200))) == [f"answer {number}" for number in range(200)]
    assert_clean(served)
