"""Large requests hold up no others: they are read elsewhere, and what cannot be served is refused early."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
from tokenizers import normalizers

from triptych.engine.server import tokens
from triptych.engine.server.errors import ApiError
from triptych.engine.server.fetch import ImageSource
from triptych.engine.server.pool import Pool
from triptych.engine.server.prompts import Prompts, Vocabulary
from triptych.engine.server.protocol import Message

from .serving import Served, byte_tokenizer
from .wire import assert_clean

CHAT = "/v1/chat/completions"
CONTEXT = 4096


def ask(content: str = "x", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **more}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "body",
    [
        ask(chat_template_kwargs=nested(500)),
        ask(metadata=nested(500)),
        ask(tools=[nested(100)]),
        ask(response_format=nested(900)),
        {"messages": [nested(500)]},
    ],
    ids=["chat_template_kwargs", "an ignored field", "tools", "an unsupported field", "messages"],
)
def test_what_is_nested_too_deeply_is_refused_in_any_field(shared: Served, body: Any) -> None:
    answer = shared.http.post(CHAT, json=body)
    assert (answer.status_code, answer.json()["error"]["message"]) == (
        400,
        "the body is nested more than 64 deep",
    )


def test_a_template_that_fails_on_what_it_is_given_is_no_fault_of_the_server() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% macro down(n) %}{{ down(n + 1) }}{% endmacro %}{{ 1 // n if n else down(0) }}"
    )
    vocabulary = Vocabulary(tokenizer)
    for options in ({"n": 0}, {"n": "x"}):
        with pytest.raises(ApiError, match="the chat template does not take these messages") as caught:
            vocabulary.render([Message("user", "x")], options)
        assert caught.value.status == 400


def no_tokens(*_: object, **__: object) -> NoReturn:
    raise AssertionError("no tokens are made of a text that is too long")


class Blind:
    """A tokenizer's insides that make no tokens."""

    encode = encode_batch = encode_batch_fast = no_tokens


def test_too_long_is_known_before_tokens() -> None:
    vocabulary = Vocabulary(byte_tokenizer())
    vocabulary._backend = Blind()
    with pytest.raises(ApiError, match="at least 19999 tokens") as caught:
        vocabulary.encode("x" * 20_000, special=False, room=CONTEXT)
    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_clients_are_told_so(shared: Served, path: str) -> None:
    text = "hello " * 2**18
    body = ask(text) if path == CHAT else {"prompt": [text, text]}
    error = shared.http.post(path, json=body).json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "at least 1336" in error["message"]  # a byte is a token; but some letters are in special ones too


def test_more_messages_than_tokens_are_not_even_rendered(shared: Served) -> None:
    messages = ask()["messages"] * 33_000
    error = shared.http.post(CHAT, json={"messages": messages}).json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "at least 33000 tokens" in error["message"]


def test_other_threads_run_while_a_long_text_is_tokenised() -> None:
    """The text is such that its length is not known beforehand, or it would not be tokenised."""
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    vocabulary = Vocabulary(tokenizer)
    text = "hello " * 2**18
    done = threading.Event()
    worker = threading.Thread(target=lambda: (vocabulary.encode(text, special=False, room=100), done.set()))
    ticks = 0
    worker.start()
    while not done.is_set():
        time.sleep(0.002)
        ticks += 1
    worker.join()
    assert ticks > 10  # it takes half a second and more; one or two if it stops all others


def test_what_takes_long_is_not_done_by_the_event_loop() -> None:
    where: dict[str, int] = {}

    class Seen(Vocabulary):
        def encode(self, text: str, **more: Any) -> list[int]:
            where["encode"] = threading.get_ident()
            return super().encode(text, **more)

        def render(self, *given: Any) -> str:
            where["render"] = threading.get_ident()
            return super().render(*given)

    async def prompt(text: str) -> None:
        pool = Pool()
        prompts = Prompts(ImageSource((), max_bytes=1), pool, 1)
        prompts.vocabulary = Seen(byte_tokenizer())
        await prompts.of_messages([Message("user", text)], {}, 10**7, special=False, size=len(text))
        pool.close()

    asyncio.run(prompt("short"))
    assert set(where.values()) == {threading.get_ident()}
    for size in (2**17, 2**21):
        asyncio.run(prompt("x" * size))
        assert threading.get_ident() not in where.values()


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
def test_nor_are_tokens_of_long_texts(shared: Served, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    where: dict[str, str] = {}

    def seen(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            where[name] = threading.current_thread().name
            return function(*given, **more)

        return call

    monkeypatch.setattr(tokens, "decode", seen("decode", tokens.decode))
    for name in ("encode", "spell", "write"):
        monkeypatch.setattr(Vocabulary, name, seen(name, getattr(Vocabulary, name)))
    short = {"prompt": "x" * 20_000, "return_token_strs": True}
    body = short if path == "/tokenize" else {"tokens": [1] * 20_000}
    assert shared.http.post(path, json=body).status_code == 200
    expected = {"decode", "encode", "spell"} if path == "/tokenize" else {"decode", "write"}
    assert where.keys() == expected
    assert all(name.startswith("triptych") for name in where.values()), where  # threads of the pool


@pytest.mark.parametrize(
    ("path", "body"),
    [("/tokenize", {"prompt": "hello " * 2**18}), ("/detokenize", {"tokens": [1] * 500_000})],
)
def test_nor_are_there_more_of_them_than_the_context_holds(
    shared: Served, path: str, body: dict[str, Any]
) -> None:
    answer = shared.http.post(path, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"


HUGE = {
    "many stop strings": {"prompt": "x", "stop": ["a"] * 500_000},
    "many stop tokens": {"prompt": "x", "stop_token_ids": [1] * 500_000},
    "many tokens": {"prompt": [1] * 500_000},
    "many prompts": {"prompt": ["x"] * 500_000},
    "many lists": {"prompt": [[]] * 400_000},
    "many parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 60_000}]},
    "a long name": {"prompt": "x", "model": "m" * 2**21},
    "a long role": {"messages": [{"role": "r" * 2**21, "content": "x"}]},
    "a long key": {"prompt": "x", "k" * 2**21: 1, "temperature": "hot"},
}


@pytest.mark.parametrize("name", HUGE)
def test_what_is_huge_is_refused_in_a_short_line(shared: Served, name: str) -> None:
    body = HUGE[name]
    answer = shared.http.post(CHAT if "messages" in body else "/v1/completions", json=body)
    assert answer.status_code in (400, 404)
    assert len(answer.text) < 1500
    assert_clean(shared)
