"""Who may use a server: keys, hosts, web pages."""

from __future__ import annotations

import asyncio
import hmac
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import Response

from triptych.engine.server.gate import Gate, check_exposure, is_loopback
from triptych.engine.server.server import Settings
from triptych.spec.base import SpecError

from .serving import Served, make_server, running
from .wire import send_raw

KEY = "sk-a-key"
CHAT = "/v1/chat/completions"
BEARER = {"authorization": f"Bearer {KEY}"}
HERE = "localhost:8000"


def asked(
    path: str = CHAT,
    *,
    key: str | None = None,
    loopback: bool = True,
    host: str = HERE,
    method: str = "POST",
    **headers: str,
) -> httpx.Response:
    """What a gate answers; 200 where it lets a request pass."""

    async def ask() -> httpx.Response:
        gate = Gate(Response("passed"), key=key, loopback=loopback)
        given: dict[str, Any] = {"host": host, "content-type": "application/json"}
        given |= {name.replace("_", "-"): value.encode("latin-1") for name, value in headers.items()}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://x") as client:
            return await client.request(method, path, headers=given)

    return asyncio.run(ask())


def refusal(answer: httpx.Response) -> tuple[int, str]:
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    return answer.status_code, str(error["code"])


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/metrics", "/", "/health/../v1/models"])
def test_all_but_health_needs_the_key(path: str) -> None:
    assert refusal(asked(path, key=KEY)) == (401, "invalid_api_key")
    assert asked(path, key=KEY).headers["www-authenticate"] == "Bearer"
    assert asked(path, key=KEY, **BEARER).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_health_needs_none(path: str) -> None:
    assert asked(path, key=KEY, method="GET").status_code == 200


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_the_scheme_may_be_written_either_way(scheme: str) -> None:
    assert asked(key=KEY, authorization=f"{scheme} {KEY}").status_code == 200


@pytest.mark.parametrize(
    "given",
    ["", "Bearer", "Bearer ", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Basic {KEY}", KEY, "Bearer \xff"],
)
def test_a_wrong_key_is_refused(given: str) -> None:
    assert refusal(asked(key=KEY, authorization=given)) == (401, "invalid_api_key")


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return False

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert asked(key=KEY, **BEARER).status_code == 401
    assert compared == [(KEY.encode(), KEY.encode())]


@pytest.mark.parametrize(
    "host", [HERE, "localhost", "LOCALHOST.:1", "a.localhost:80", "127.0.0.1:8000", "127.9.9.9", "[::1]:8000"]
)
def test_a_server_on_loopback_answers_to_names_of_loopback(host: str) -> None:
    assert asked(host=host).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example",
        "localhost@evil.example", "evil.example#localhost", "notlocalhost", "10.0.0.1", "0.0.0.0:8000",
        "[::2]", "[", "", ":80",
    ],
)  # fmt: skip
def test_and_to_no_other(host: str) -> None:
    """DNS rebinding: a page of evil.example has the browser look its name up as 127.0.0.1."""
    assert refusal(asked(host=host)) == (421, "foreign_host")
    assert refusal(asked("/health", host=host, method="GET")) == (421, "foreign_host")


def test_who_has_the_key_may_call_the_server_anything() -> None:
    """As behind a proxy that hands on its own name."""
    assert asked(host="llm.example", key=KEY, **BEARER).status_code == 200
    assert refusal(asked(host="llm.example", key=KEY)) == (421, "foreign_host")


def test_a_server_for_others_answers_to_any_name() -> None:
    assert asked(host="gpu7.lan:8000", loopback=False).status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://localhost:3000", "null", "http://localhost"]
)
def test_a_web_page_of_others_is_refused(origin: str) -> None:
    assert refusal(asked(origin=origin)) == (403, "foreign_origin")
    assert refusal(asked(origin=origin, host="gpu7.lan", loopback=False)) == (403, "foreign_origin")
    assert asked(origin=origin, key=KEY, **BEARER).status_code == 200
    assert asked(origin=f"http://{HERE.upper()}").status_code == 200


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_what_is_not_said_to_be_json_is_refused(kind: str) -> None:
    """A page may send these anywhere without asking first."""
    assert refusal(asked(content_type=kind)) == (415, "unsupported_media_type")
    assert refusal(asked(content_type=kind, key=KEY, **BEARER)) == (415, "unsupported_media_type")
    assert asked("/health", content_type=kind, method="GET").status_code == 200


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8"])
def test_json_may_be_said_either_way(kind: str) -> None:
    assert asked(content_type=kind).status_code == 200


def test_an_open_server_is_asked_for() -> None:
    with pytest.raises(SpecError, match=r"--host: anyone who reaches 0\.0\.0\.0 could use the server; set "):
        check_exposure("0.0.0.0", None, anyone=False)
    check_exposure("0.0.0.0", None, anyone=True)
    check_exposure("0.0.0.0", KEY, anyone=False)
    check_exposure("127.0.0.1", None, anyone=False)
    check_exposure("::1", None, anyone=False)


@pytest.mark.parametrize("key", ["", "two words", "schlüssel", "line\n"])
def test_a_key_that_no_header_can_hold_is_refused(key: str) -> None:
    with pytest.raises(SpecError, match="--api-key"):
        check_exposure("127.0.0.1", key, anyone=False)


def test_an_address_is_loopback_or_not() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.1.2.3", "::1", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "10.0.0.1", "fe80::1", "example"]))


def test_a_server_that_would_be_open_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="allow-anyone"):
        make_server(tmp_path, Settings(host="0.0.0.0", port=0))


def test_a_server_has_the_gate(tmp_path: Path) -> None:
    with running(tmp_path, Settings(port=0, api_key=KEY)) as served:
        assert served.complete({"say": "hi"}).status_code == 401
        assert served.http.get("/metrics").status_code == 401
        served.http.headers.update(BEARER)
        assert served.complete({"say": "hi"}).json()["choices"][0]["text"] == "hi"
        assert KEY not in repr(served.server.__dict__)


def test_so_has_one_without_a_key(shared: Served) -> None:
    assert shared.http.post(CHAT, content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    with send_raw(shared, b"GET /health HTTP/1.1\r\nhost: evil.example\r\n\r\n") as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 421 ")
