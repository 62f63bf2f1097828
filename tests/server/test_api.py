"""The OpenAI API as clients see it: the official client, and the bytes on the wire."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from tokenizers.processors import TemplateProcessing

from triptych.engine.server.prompts import Vocabulary

from .serving import Served, byte_tokenizer
from .wire import events

HELLO = json.dumps({"say": "hello"})


@pytest.fixture(scope="module")
def client(shared: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{shared.url}/v1", api_key="none", max_retries=0)


def user(script: dict[str, Any] | str) -> list[Any]:
    return [{"role": "user", "content": script if isinstance(script, str) else json.dumps(script)}]


def test_a_chat_is_answered(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="toy", messages=user({"say": "hëllo €"}))
    (choice,) = answer.choices
    assert (choice.message.content, choice.finish_reason) == ("hëllo €", "stop")
    assert choice.message.role == "assistant"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (30, 11)
    assert answer.usage.total_tokens == 41
    assert answer.id.startswith("chatcmpl-")


def test_a_completion_is_answered(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="toy", prompt=HELLO, max_tokens=3)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("hel", "length")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3
    assert client.completions.create(model="toy", prompt=HELLO).choices[0].text == "hello"


def test_a_stream_brings_the_same_text(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="toy", messages=user({"say": "hëllo €"}), stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "hëllo €"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]
    assert all(chunk.usage is None for chunk in chunks)
    pieces = list(client.completions.create(model="toy", prompt=HELLO, stream=True))
    assert "".join(piece.choices[0].text for piece in pieces) == "hello"


def test_the_asynchronous_client_streams_too(shared: Served) -> None:
    async def ask(number: int) -> str:
        script = {"say": f"answer {number}"}
        stream = await client.chat.completions.create(model="toy", messages=user(script), stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def ask_all() -> list[str]:
        async with client:
            return await asyncio.gather(*(ask(number) for number in range(50)))

    client = openai.AsyncOpenAI(base_url=f"{shared.url}/v1", api_key="none", max_retries=0)
    assert asyncio.run(ask_all()) == [f"answer {number}" for number in range(50)]


def test_a_chat_stream_byte_for_byte(shared: Served) -> None:
    script = {"say": "hi", "delay": 0.05}
    answer = shared.chat(script, stream=True, stream_options={"include_usage": True})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    first, *rest = events(answer.text)
    head = {name: first[name] for name in ("id", "object", "created", "model")}
    assert head["object"] == "chat.completion.chunk"

    def chunk(delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**head, "choices": [choice], "usage": None}

    usage = {"prompt_tokens": 30, "completion_tokens": 3, "total_tokens": 33}
    assert [first, *rest] == [
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "h"}),
        chunk({"content": "i"}),
        chunk({}, "stop"),
        {**head, "choices": [], "usage": {**usage, "prompt_tokens_details": {"cached_tokens": 0}}},
        "[DONE]",
    ]


def test_a_completion_stream_byte_for_byte(shared: Served) -> None:
    first, *rest = events(shared.complete({"say": "hi", "delay": 0.05}, stream=True).text)
    head = {name: first[name] for name in ("id", "object", "created", "model")}
    assert head["object"] == "text_completion"

    def chunk(text: str, finish: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish}]}

    assert [first, *rest] == [chunk("h"), chunk("i"), chunk("", "stop"), "[DONE]"]


def test_a_character_is_never_split_in_a_stream(shared: Served) -> None:
    chunks = events(shared.complete({"say": "a€😀é", "delay": 0.02}, stream=True).text)[:-1]
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["a", "€", "😀", "é", ""]


def test_usage_comes_only_when_asked_for(shared: Served) -> None:
    chunks = events(shared.complete(HELLO, stream=True, stream_options={"include_usage": False}).text)[:-1]
    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)


COUNTED = {"include_usage": True, "continuous_usage_stats": True}


def test_token_counts_in_every_chunk_are_those_of_its_answer(shared: Served) -> None:
    *chunks, last, done = events(shared.chat({"say": "abcd"}, n=2, stream=True, stream_options=COUNTED).text)
    assert done == "[DONE]"
    for index in range(2):
        mine = [chunk["usage"] for chunk in chunks if chunk["choices"][0]["index"] == index]
        counts = [usage["completion_tokens"] for usage in mine]
        assert (counts[0], counts[-1]) == (0, 5)
        assert counts == sorted(set(counts))
        assert {usage["prompt_tokens"] for usage in mine} == {last["usage"]["prompt_tokens"]}
        assert all(
            usage["total_tokens"] == usage["prompt_tokens"] + count
            for usage, count in zip(mine, counts, strict=True)
        )
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 10)


def test_tokens_that_are_no_text_yet_are_counted_when_they_come(shared: Served) -> None:
    answer = shared.complete({"say": "€", "delay": 0.2}, stream=True, stream_options=COUNTED)
    *chunks, last, _ = events(answer.text)
    found = [(chunk["choices"][0]["text"], chunk["usage"]["completion_tokens"]) for chunk in chunks]
    assert found == [("", 1), ("", 2), ("€", 3), ("", 4)]
    assert last["usage"]["completion_tokens"] == 4


def test_they_come_with_the_counts_at_the_end_only(shared: Served) -> None:
    alone = {"continuous_usage_stats": True}
    chunks = events(shared.complete(HELLO, stream=True, stream_options=alone).text)[:-1]
    assert all("usage" not in chunk for chunk in chunks)


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_an_answer_before_it(shared: Served, stream: bool) -> None:
    script = {"say": "one two STOP three", "delay": 0.01}
    answer = shared.chat(script, stop=["XX", "STOP"], stream=stream)
    if stream:
        choices = [chunk["choices"][0] for chunk in events(answer.text)[:-1]]
        text = "".join(choice["delta"].get("content", "") for choice in choices)
        finish = choices[-1]["finish_reason"]
    else:
        choice = answer.json()["choices"][0]
        text, finish = choice["message"]["content"], choice["finish_reason"]
        assert answer.json()["usage"]["completion_tokens"] == len("one two STOP")
    assert (text, finish) == ("one two ", "stop")
    id = answer.headers["x-request-id"]
    shared.wait_until(lambda: [event for event in shared.events("abort") if event["id"].startswith(id)])
    (abort,) = [event for event in shared.events("abort") if event["id"].startswith(id)]
    assert abort["status"] == "finished"


def test_a_stop_token_ends_an_answer(shared: Served) -> None:
    choice = shared.complete({"say": "one.two"}, stop_token_ids=[ord(".")]).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("one", "stop")


def test_several_answers_to_several_prompts(client: openai.OpenAI) -> None:
    prompts = [json.dumps({"say": text}) for text in ("one", "two")]
    answer = client.completions.create(model="toy", prompt=prompts, n=2, seed=7)
    assert [choice.text for choice in answer.choices] == ["one", "one", "two", "two"]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == sum(map(len, prompts))
    assert answer.usage.completion_tokens == 16


def test_several_answers_in_one_stream(shared: Served) -> None:
    chunks = events(shared.chat({"say": "hey"}, n=3, stream=True, seed=7).text)[:-1]
    texts = ["", "", ""]
    finished = []
    for chunk in chunks:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
        finished += [choice["index"]] if choice["finish_reason"] else []
    assert texts == ["hey"] * 3
    assert sorted(finished) == [0, 1, 2]
    seeds = {event["sampling"]["seed"] for event in shared.events("submit")[-3:]}
    assert seeds == {7, 8, 9}


def test_a_prompt_of_tokens(shared: Served) -> None:
    answer = shared.http.post("/v1/completions", json={"prompt": list(HELLO.encode())}).json()
    assert answer["choices"][0]["text"] == "hello"
    both = [list(HELLO.encode()), list(b'{"say": "there"}')]
    answer = shared.http.post("/v1/completions", json={"prompt": both}).json()
    assert [choice["text"] for choice in answer["choices"]] == ["hello", "there"]


def test_log_probabilities_of_a_chat(shared: Served) -> None:
    answer = shared.chat({"say": "hé"}, logprobs=True, top_logprobs=2).json()
    content = answer["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in content] == ["h", "bytes:\\xc3", "bytes:\\xa9", "<|end|>"]
    assert b"".join(bytes(entry["bytes"]) for entry in content[:3]).decode() == "hé"
    assert content[0]["logprob"] == -0.5
    assert content[0]["top_logprobs"] == [
        {"token": "h", "logprob": -0.5, "bytes": [104]},
        {"token": "i", "logprob": -1.5, "bytes": [105]},
    ]


def test_log_probabilities_of_a_completion(shared: Served) -> None:
    logprobs = shared.complete({"say": "hi"}, logprobs=1, max_tokens=2).json()["choices"][0]["logprobs"]
    assert logprobs == {
        "tokens": ["h", "i"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"h": -0.5}, {"i": -0.5}],
        "text_offset": [0, 1],
    }


def test_the_chosen_token_is_among_the_likeliest_of_a_completion_even_if_it_is_not(shared: Served) -> None:
    logprobs = shared.complete({"say": "hi"}, logprobs=0, max_tokens=2).json()["choices"][0]["logprobs"]
    assert logprobs["top_logprobs"] == [{"h": -0.5}, {"i": -0.5}]


def test_log_probabilities_of_a_stream_cover_every_token_once(shared: Served) -> None:
    chunks = events(shared.chat({"say": "hé!"}, logprobs=True, stream=True).text)[:-1]
    scores = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    tokens = [entry["token"] for score in scores if score for entry in score["content"]]
    assert tokens == ["h", "bytes:\\xc3", "bytes:\\xa9", "!", "<|end|>"]


def test_models_are_listed_under_their_names(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["toy", "random:toy"]
    assert client.models.retrieve("random:toy").id == "random:toy"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_an_answer_names_the_model_as_the_request_does(shared: Served) -> None:
    assert shared.complete(HELLO, model="random:toy").json()["model"] == "random:toy"
    assert shared.complete(HELLO).json()["model"] == "toy"


def test_a_request_keeps_the_id_it_was_given(shared: Served) -> None:
    answer = shared.http.post("/v1/completions", json={"prompt": HELLO}, headers={"X-Request-Id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.json()["id"] == "cmpl-mine-1"


def test_system_and_developer_messages_reach_the_template(shared: Served) -> None:
    for role in ("system", "developer"):
        messages = [{"role": role, "content": "be brief"}, *user({"say": "ok"})]
        answer = shared.http.post("/v1/chat/completions", json={"messages": messages}).json()
        assert answer["usage"]["prompt_tokens"] == 1 + len("be brief") + 1 + len('{"say": "ok"}') + 1


def test_a_name_reaches_the_template(shared: Served) -> None:
    messages = [{"role": "user", "name": "Ann", "content": '{"say": "ok"}'}]
    answer = shared.http.post("/v1/chat/completions", json={"messages": messages}).json()
    assert answer["usage"]["prompt_tokens"] == 1 + len("Ann: ") + len('{"say": "ok"}') + 1


def test_a_request_says_whether_its_prompt_begins_as_texts_do(served: Served) -> None:
    """A completion does if nothing is said, a chat does not: its template writes what it begins with."""
    tokenizer = byte_tokenizer()
    begins = TemplateProcessing(single="<|system|> $A", special_tokens=[("<|system|>", 258)])
    tokenizer.backend_tokenizer.post_processor = begins
    served.server.front.prompts.vocabulary = Vocabulary(tokenizer)

    def tokens(ask: Callable[..., httpx.Response], **fields: Any) -> int:
        return int(ask(HELLO, **fields).json()["usage"]["prompt_tokens"])

    text, chat = len(HELLO), len(HELLO) + 2
    assert tokens(served.complete) == tokens(served.complete, add_special_tokens=True) == text + 1
    assert tokens(served.complete, add_special_tokens=False) == text
    assert tokens(served.chat) == tokens(served.chat, add_special_tokens=False) == chat
    assert tokens(served.chat, add_special_tokens=True) == chat + 1


def test_text_in_parts_is_one_text(shared: Served) -> None:
    parts = [{"type": "text", "text": '{"say":'}, {"type": "text", "text": '"parts"}'}]
    messages = [{"role": "user", "content": parts}]
    answer = shared.http.post("/v1/chat/completions", json={"messages": messages}).json()
    assert answer["choices"][0]["message"]["content"] == "parts"


def test_a_long_prompt_is_tokenised_in_a_thread_and_is_the_same(shared: Served) -> None:
    answer = shared.complete("é" * 10_000 + " " * 9_000 + '{"say": "long"}').json()
    assert answer["choices"][0]["text"] == "long"
    assert answer["usage"]["prompt_tokens"] == 29_000 + len('{"say": "long"}')
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 16


def test_probes(shared: Served) -> None:
    assert shared.http.get("/health").json() == {"status": "ok"}
    assert shared.http.get("/ready").json() == {"status": "ready"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/nothing", 404), ("GET", "/v1/completions", 405), ("POST", "/v1/models", 405)],
)
def test_what_is_no_route_is_an_error_of_the_same_shape(
    shared: Served, method: str, path: str, status: int
) -> None:
    answer = shared.http.request(method, path)
    assert answer.status_code == status
    assert path in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"messages": []}, 400, None),
        ({"messages": user("x"), "model": "other"}, 404, "model_not_found"),
        ({"messages": user("x"), "tools": [{}]}, 400, "unsupported_parameter"),
        ({"messages": user("x" * 40_000)}, 400, "context_length_exceeded"),
        ({"messages": user("x"), "max_tokens": 40_000}, 400, "context_length_exceeded"),
        ({"messages": user("x"), "chat_template_kwargs": {"refuse": True}}, 400, None),
        ({"messages": user("x"), "chat_template_kwargs": {"tokenize": True}}, 400, None),
        ({"messages": user({"fail": "too long", "invalid": True})}, 400, "invalid_request"),
        ({"messages": user({"fail": "out of luck"})}, 500, "worker_failed"),
        ({"messages": user({"fail": "too long", "invalid": True}), "stream": True}, 400, "invalid_request"),
        ({"messages": user({"fail": "late", "fail_at": 3})}, 500, "worker_failed"),
    ],
)
def test_an_error_has_its_status(shared: Served, body: Any, status: int, code: str | None) -> None:
    answer = shared.http.post("/v1/chat/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_an_empty_prompt_is_refused(shared: Served) -> None:
    answer = shared.complete("")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt")


def test_an_error_in_the_midst_of_a_stream_is_an_event(shared: Served, client: openai.OpenAI) -> None:
    script = {"fail": "out of luck", "fail_at": 3, "delay": 0.01}
    answer = shared.chat(script, stream=True)
    assert answer.status_code == 200
    *_, error, done = events(answer.text)
    assert error["error"]["message"] == "out of luck"
    assert done == "[DONE]"
    with pytest.raises(openai.APIError, match="out of luck"):
        list(client.chat.completions.create(model="toy", messages=user(script), stream=True))


def test_the_metrics_count_what_happened(shared: Served) -> None:
    names = ("triptych_ttft_seconds_count", "triptych_e2e_seconds_count", "triptych_tpot_seconds_count")
    finished = 'triptych_requests_total{outcome="finished"}'
    before = [shared.metric(name) for name in names]
    tokens, ended = shared.metric("triptych_generated_tokens_total"), shared.metric(finished)
    shared.complete({"say": "hello"})
    shared.wait_until(lambda: shared.metric(finished) == ended + 1)
    assert [shared.metric(name) for name in names] == [count + 1 for count in before]
    assert shared.metric("triptych_generated_tokens_total") == tokens + 6
    assert shared.metric("triptych_kv_blocks") == 100
    assert shared.metric('triptych_phase_seconds_total{phase="decode"}') >= 0.25
    assert shared.metric("triptych_requests_in_flight") == 0
