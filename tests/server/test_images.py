"""Images in a chat: in the request itself, or fetched from hosts that are trusted."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from triptych.engine.messages import ImageInput
from triptych.engine.server.errors import ApiError
from triptych.engine.server.fetch import ImageSource, read_data_url
from triptych.engine.server.prompts import expand
from triptych.engine.server.server import Settings

from .serving import ByteImages, Served, running

IMAGE = b"IMG" + b"\1" * 7


def data_url(image: bytes = IMAGE) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()


def ask(served: Served, *urls: str, **more: Any) -> httpx.Response:
    parts: list[dict[str, Any]] = [{"type": "text", "text": '{"say": "seen"}'}]
    parts += [{"type": "image_url", "image_url": {"url": url, "detail": "auto"}} for url in urls]
    messages = [{"role": "user", "content": parts}]
    return served.http.post("/v1/chat/completions", json={"messages": messages, **more})


class _Host(BaseHTTPRequestHandler):
    """A host of images, good and bad."""

    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("location", "/image")
            self.end_headers()
            return
        self.send_response(404 if self.path == "/none" else 200)
        self.end_headers()
        if self.path == "/slow":
            time.sleep(3)
        data = b"IMG" + b"\0" * (2**20 if self.path == "/large" else 7)
        self.wfile.write(data if self.path != "/text" else b"not an image")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Host)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory, host: str) -> Iterator[Served]:
    settings = Settings(port=0, image_hosts=(host,), max_body_mb=0.5)
    with running(tmp_path_factory.mktemp("images"), settings, images=ByteImages()) as served:
        served.server._source._seconds = 0.5
        yield served


def error_of(answer: httpx.Response) -> str:
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    return str(error["message"])


def test_an_image_takes_as_many_places_as_it_has_embeddings(shared: Served) -> None:
    answer = ask(shared, data_url(), data_url(b"IMG"))
    assert answer.json()["choices"][0]["message"]["content"] == "seen"
    submit = shared.events("submit")[-1]
    assert submit["images"] == [10, 3]
    assert submit["tokens"] == answer.json()["usage"]["prompt_tokens"] == 1 + 15 + 13 + 1


def test_each_of_several_answers_sees_the_image(shared: Served) -> None:
    answer = ask(shared, data_url(), n=2)
    assert [choice["message"]["content"] for choice in answer.json()["choices"]] == ["seen"] * 2
    assert [event["images"] for event in shared.events("submit")[-2:]] == [[10], [10]]


def test_an_image_survives_its_worker(shared: Served) -> None:
    parts = [
        {"type": "text", "text": '{"say": "seen again", "die": 4}'},
        {"type": "image_url", "image_url": {"url": data_url()}},
    ]
    answer = shared.http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": parts}]})
    assert answer.json()["choices"][0]["message"]["content"] == "seen again"
    assert [event["images"] for event in shared.events("submit")[-2:]] == [[10], [10]]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (data_url(b"GIF"), "image 1: not an image"),
        ("data:image/png;base64,%%%", "not base64"),
        ("data:image/png;base64,äöü", "not base64"),
        ("data:image/png,abc", "base64"),
        ("data:", "base64"),
        ("file:///etc/passwd", "must be a data: URL"),
        ("ftp://host/image.png", "must be a data: URL"),
        ("", "must be a data: URL"),
        ("http://", "must be a data: URL"),
        ("http://[::1", "no URL"),
        ("http://host:99999/", "no URL"),
        ("http://images.example.com/a.png", "--allow-image-url images.example.com"),
        ("http://user:secret@images.example.com/a.png", "user name"),
    ],
)
def test_what_is_no_image_is_refused(shared: Served, url: str, words: str) -> None:
    assert words in error_of(ask(shared, url))


def test_images_are_refused_where_the_model_takes_none(tmp_path: Path) -> None:
    with running(tmp_path) as served:
        assert error_of(ask(served, data_url())) == "the model takes no images"


def test_more_images_than_there_is_room_for_are_not_even_read(shared: Served) -> None:
    large = data_url(b"IMG" + b"\0" * 20_000)
    answer = ask(shared, large, large, data_url(b"not read"))
    assert "maximum context length is 32768 tokens; the images alone take more" in error_of(answer)
    assert "129 images" in error_of(ask(shared, *[data_url()] * 129))


def test_an_image_of_a_trusted_host_is_fetched(trusting: Served, host: str) -> None:
    assert ask(trusting, f"http://{host}/image").json()["choices"][0]["message"]["content"] == "seen"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/none", "status 404"),
        ("/moved", "status 302"),
        ("/slow", "within 0.5 s"),
        ("/large", "larger than 524,288 bytes"),
        ("/text", "not an image"),
    ],
)
def test_a_trusted_host_is_not_trusted_too_far(trusting: Served, host: str, path: str, words: str) -> None:
    assert words in error_of(ask(trusting, f"http://{host}{path}"))


def test_a_host_is_trusted_on_its_port_alone(trusting: Served, host: str) -> None:
    _Host.asked.clear()
    assert "not fetched" in error_of(ask(trusting, "http://127.0.0.1:1/image"))
    assert "not fetched" in error_of(ask(trusting, f"http://localhost:{host.split(':')[1]}/image"))
    assert "user name" in error_of(ask(trusting, f"http://{host}@evil.test/image"))
    assert _Host.asked == []


def resolved(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> str:
    """Fetches from a host whose name leads to these addresses; where the connection went."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, stream=httpx.ByteStream(IMAGE))

    async def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(2, 1, 6, "", (address, 443)) for address in addresses]

    async def fetch() -> None:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
        source = ImageSource(["rebound.test"], max_bytes=100)
        source._client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
        assert await source.get("https://rebound.test/a.png?b=c") == IMAGE

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(fetch())
    (request,) = asked
    assert request.extensions["sni_hostname"] == request.headers["host"] == "rebound.test"
    return str(request.url)


def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolved(monkeypatch, "93.184.216.34") == "https://93.184.216.34/a.png?b=c"
    assert resolved(monkeypatch, "2606:2800::1") == "https://[2606:2800::1]/a.png?b=c"


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254", "10.0.0.1", "127.0.0.1", "0.0.0.0", "100.64.0.1", "224.0.0.1",
        "::1", "fe80::1", "fd00::1", "::ffff:127.0.0.1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::",
    ],
)  # fmt: skip
def test_a_name_that_leads_into_the_private_network_is_refused(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    with pytest.raises(ApiError, match="private address"):
        resolved(monkeypatch, "93.184.216.34", address)


def test_a_data_url_is_the_file() -> None:
    assert read_data_url(data_url()) == IMAGE


def test_places_and_images_must_agree() -> None:
    image = ImageInput(1, (1, 1, 2), 2, b"")
    assert expand([1, 9, 2, 9], [image, image], 9) == [1, 9, 9, 2, 9, 9]
    with pytest.raises(ApiError, match="1 places for 2 images"):
        expand([9], [image, image], 9)
