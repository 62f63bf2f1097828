"""What clients ask beside answers: tokens, the version, and tools that only the prompt lists."""

from __future__ import annotations

from typing import Any

import pytest

from triptych.engine.messages import too_long
from triptych.version import __version__

from .serving import Served

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
TURNS: list[dict[str, Any]] = [
    {"role": "user", "content": "hi"},
    {
        "role": "assistant",
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"where": "up"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "1", "content": "sky"},
]


def tokenize(served: Served, **body: Any) -> dict[str, Any]:
    answer = served.http.post("/tokenize", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_text_in_tokens_and_back(shared: Served) -> None:
    found = tokenize(shared, prompt="hello")
    assert found == {"count": 5, "max_model_len": 32768, "tokens": [*b"hello"], "token_strs": None}
    assert tokenize(shared, prompt="hi", return_token_strs=True)["token_strs"] == ["h", "i"]
    back = shared.http.post("/detokenize", json={"tokens": [*b"hi", 256]})
    assert back.json() == {"prompt": "hi<|end|>"}


def test_a_conversation_has_the_tokens_that_its_answer_counts(shared: Served) -> None:
    messages = [{"role": "user", "content": '{"say": "x"}'}]
    answer = shared.http.post("/v1/chat/completions", json={"messages": messages}).json()
    assert tokenize(shared, messages=messages)["count"] == answer["usage"]["prompt_tokens"]


def test_the_template_is_told_of_tools_and_what_they_said(shared: Served) -> None:
    body = {"messages": TURNS, "tools": TOOLS}
    text = shared.http.post("/detokenize", json={"tokens": tokenize(shared, **body)["tokens"]}).json()
    assert text == {"prompt": "[look]<|user|>hi<|user|>look(up)<|user|>1= sky<|assistant|>"}
    answer = shared.http.post("/v1/chat/completions", json={**body, "tool_choice": "none", "max_tokens": 3})
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["prompt_tokens"] == tokenize(shared, **body)["count"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {}),
        ("/tokenize", {"prompt": "x", "messages": TURNS}),
        ("/tokenize", {"prompt": 5}),
        ("/detokenize", {"tokens": ["x"]}),
        ("/detokenize", {"tokens": [-1]}),
    ],
)
def test_what_is_neither_is_refused(shared: Served, path: str, body: dict[str, Any]) -> None:
    answer = shared.http.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


def test_the_version_is_told(shared: Served) -> None:
    assert shared.http.get("/version").json() == {"version": __version__}


def test_both_processes_tell_their_memory_and_time(shared: Served) -> None:
    for name in ("process", "triptych_worker_process"):
        assert shared.metric(f"{name}_resident_memory_bytes") > 2**20
        assert shared.metric(f"{name}_cpu_seconds_total") > 0


def test_what_is_too_long_is_said_in_the_words_that_litellm_knows(shared: Served) -> None:
    """Its `ContextWindowExceededError` comes of these, in lower case."""
    known = "this model's maximum context length is"
    assert known in too_long(10, 20).lower()
    for route, body in (
        ("/v1/completions", {"prompt": [1] * 40_000}),
        ("/v1/chat/completions", {"messages": TURNS, "max_tokens": 40_000}),
    ):
        error = shared.http.post(route, json=body).json()["error"]
        assert error["code"] == "context_length_exceeded"
        assert known in error["message"].lower()


def test_a_bias_reaches_the_worker(shared: Served) -> None:
    answer = shared.complete({"say": "x"}, logit_bias={"5": -100})
    assert answer.status_code == 200
    assert shared.events("submit")[-1]["sampling"]["logit_bias"] == [[5, -100.0]]
