"""What a request may say, what is refused, and in which words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from triptych.engine.messages import Sampling
from triptych.engine.server.errors import ApiError
from triptych.engine.server.protocol import ChatRequest, CompletionRequest, parse


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


MESSAGES = user("hi")


def chat(**fields: Any) -> ChatRequest:
    return parse(ChatRequest, json.dumps({"messages": MESSAGES, **fields}).encode())


def completion(**fields: Any) -> CompletionRequest:
    return parse(CompletionRequest, json.dumps({"prompt": "hi", **fields}).encode())


def refusal(**fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        chat(**fields)
    assert caught.value.status == 400
    return caught.value


def test_a_request_that_says_little_is_neutral() -> None:
    assert chat().sampling(7, 0) == Sampling(7)
    assert completion().sampling(7, 0) == Sampling(7)


def test_null_is_as_good_as_nothing() -> None:
    fields = dict.fromkeys(ChatRequest.__struct_fields__)
    assert chat(**{**fields, "messages": MESSAGES}).sampling(7, 0) == Sampling(7)


def test_every_way_of_choosing_tokens_reaches_the_engine() -> None:
    request = chat(
        temperature=0.5,
        top_k=4,
        top_p=0.9,
        min_p=0.1,
        presence_penalty=1,
        frequency_penalty=-1,
        repetition_penalty=1.1,
        seed=5,
        logprobs=True,
        top_logprobs=3,
        ignore_eos=True,
        stop_token_ids=[7],
    )
    assert request.sampling(9, 1) == Sampling(9, 0.5, 4, 0.9, 0.1, 1, -1, 1.1, 6, 3, True, (7,))


def test_top_k_of_minus_one_keeps_all() -> None:
    assert chat(top_k=-1).sampling(1, 0).top_k == 0


def test_a_temperature_that_logits_cannot_be_divided_by_is_greedy() -> None:
    assert chat(temperature=1e-300).sampling(1, 0).temperature == 0
    assert chat(temperature=1e-4).sampling(1, 0).temperature == 1e-4


def test_log_probabilities_have_two_shapes() -> None:
    assert chat().candidates is None
    assert chat(logprobs=True).candidates == 0
    assert chat(logprobs=True, top_logprobs=5).candidates == 5
    assert completion(logprobs=0).candidates == 0
    assert completion(logprobs=5).candidates == 5


def test_either_name_limits_the_output() -> None:
    assert chat().output_limit is None
    assert chat(max_tokens=5).output_limit == 5
    assert chat(max_completion_tokens=6).output_limit == 6
    assert chat(max_completion_tokens=6, max_tokens=5).output_limit == 5
    assert completion().output_limit == 16


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]])],
)
def test_a_prompt_has_four_shapes(prompt: Any, prompts: Any) -> None:
    assert completion(prompt=prompt).prompts == prompts


@pytest.mark.parametrize(
    "prompt", [[], [[]], ["a", 1], [1, "a"], [-1], [2**31], [1.5], [None], [[1], ["a"]], {}, 5]
)
def test_a_prompt_of_another_shape_is_refused(prompt: Any) -> None:
    with pytest.raises(ApiError) as caught:
        assert completion(prompt=prompt).prompts
    assert (caught.value.status, caught.value.param) == (400, "prompt")


@pytest.mark.parametrize(
    "fields",
    [
        {
            "user": "me",
            "store": True,
            "metadata": {"a": "b"},
            "service_tier": "auto",
            "parallel_tool_calls": True,
        },
        {"tools": [], "functions": [], "logit_bias": {}, "echo": False, "suffix": ""},
        {"tool_choice": "auto", "function_call": "none", "response_format": {"type": "text"}},
        {"modalities": ["text"], "best_of": 1, "skip_special_tokens": True, "add_generation_prompt": True},
        {"min_tokens": 5, "max_tokens": 5, "ignore_eos": True},
        {"min_tokens": 0, "an_unknown_field": [1, 2, 3]},
        {"length_penalty": 1.0, "spaces_between_special_tokens": True, "include_reasoning": True},
        {"mm_processor_kwargs": {}, "documents": [], "priority": 0, "verbosity": "medium", "cache_salt": ""},
        {"stream": True, "stream_options": {"continuous_usage_stats": False, "include_obfuscation": True}},
        {"prompt_cache_key": "mine", "safety_identifier": "me", "rid": "5"},
    ],
)
def test_fields_that_ask_for_nothing_are_ignored(fields: dict[str, Any]) -> None:
    assert chat(**fields).sampling(5, 0).max_tokens == 5


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function"}]),
        ("functions", [{}]),
        ("tool_choice", "required"),
        ("response_format", {"type": "json_object"}),
        ("modalities", ["text", "audio"]),
        ("best_of", 2),
        ("echo", True),
        ("suffix", "x"),
        ("skip_special_tokens", False),
        ("add_generation_prompt", False),
        ("guided_json", {"type": "object"}),
        ("min_tokens", 5),
        ("mm_processor_kwargs", {"max_pixels": 1000}),
        ("documents", [{"text": "x"}]),
        ("web_search_options", {}),
        ("reasoning_effort", "low"),
        ("verbosity", "low"),
        ("include_reasoning", False),
        ("spaces_between_special_tokens", False),
        ("length_penalty", 0),
        ("prompt_logprobs", 0),
        ("priority", -1),
        ("cache_salt", "x"),
        ("return_token_ids", True),
        ("regex", "a*"),
        ("json_schema", "{}"),
        ("lora_path", "mine"),
    ],
)
def test_fields_that_ask_for_what_is_not_there_are_refused(field: str, value: Any) -> None:
    error = refusal(**{field: value})
    assert (error.param, error.code) == (field, "unsupported_parameter")


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"messages": []}, "messages", "length >= 1"),
        ({"messages": "hi"}, "messages", "Expected `array`"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role", "function"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "int"),
        ({"logit_bias": {"-1": 1}}, "logit_bias", ">= 0"),
        ({"logit_bias": {"5": 101}}, "logit_bias[0]", "<= 100"),
        ({"tools": {"type": "function"}, "tool_choice": "none"}, "tools", "list"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "missing"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "messages[0].content[0].type",
            "",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
            "missing",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{}]}]},
            "messages[0].tool_calls[0].function",
            "missing",
        ),
        ({"max_tokens": 0}, "max_tokens", ">= 1"),
        ({"max_tokens": "5"}, "max_tokens", "Expected `int"),
        ({"max_tokens": 2.5}, "max_tokens", "Expected `int"),
        ({"temperature": -1}, "temperature", ">= 0"),
        ({"temperature": 2.1}, "temperature", "<= 2"),
        ({"top_p": 0}, "top_p", "> 0"),
        ({"top_p": 1.1}, "top_p", "<= 1"),
        ({"top_k": -2}, "top_k", ">= -1"),
        ({"min_p": 2}, "min_p", "<= 1"),
        ({"presence_penalty": 3}, "presence_penalty", "<= 2"),
        ({"repetition_penalty": 0}, "repetition_penalty", ">= 0.001"),
        ({"repetition_penalty": 1e300}, "repetition_penalty", "<= 1000"),
        ({"top_k": 2**64}, "top_k", "<= 2147483647"),
        ({"n": 0}, "n", ">= 1"),
        ({"n": 129}, "n", "<= 128"),
        ({"seed": 2**63}, "seed", ""),
        ({"stop": [""]}, "stop", "1 to 1024"),
        ({"stop": ["x"] * 17}, "stop", "at most 16"),
        ({"stop": 5}, "stop", ""),
        ({"top_logprobs": 3}, "top_logprobs", "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "<= 20"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "set stream to true"),
        ({"stream": "yes"}, "stream", "Expected `bool"),
        ({"model": 5}, "model", "Expected `str"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str, words: str) -> None:
    error = refusal(**fields)
    assert str(error.param).replace("[...]", "[0]") == param  # as older releases of msgspec count
    assert words in error.message
    assert "\n" not in error.message


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"5",
        b'{"messages": [{"role": "user", "content": "\xff"}]}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"temperature": NaN, "messages": []}',
        b'{"temperature": 1e999, "messages": [{"role": "user", "content": "x"}]}',
        b"[" * 100_000,
        b'{"tools": ' + b"[" * 100_000,
        b'{"messages": [{"role": "user", "content": "x"}]} trailing',
    ],
)
def test_what_is_no_request_is_refused_in_one_line(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parse(ChatRequest, body)
    assert caught.value.status == 400
    assert "\n" not in caught.value.message


def test_a_refusal_says_what_to_use_instead_where_there_is_something() -> None:
    assert "chat_template_kwargs" in refusal(reasoning_effort="high").message


def test_min_tokens_above_max_tokens_is_refused() -> None:
    with pytest.raises(ApiError, match="more than max_tokens"):
        chat(min_tokens=9, ignore_eos=True).sampling(8, 0)


def test_an_error_is_shaped_as_openai_shapes_it() -> None:
    error = ApiError(404, "no such model", param="model", code="model_not_found")
    assert error.body() == {
        "error": {
            "message": "no such model",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }


def test_a_bias_is_of_tokens() -> None:
    assert chat(logit_bias={"5": -100, "7": 2.5}).sampling(5, 0).logit_bias == ((5, -100.0), (7, 2.5))
    assert chat(logit_bias={}).sampling(5, 0).logit_bias == ()


def test_tools_that_may_not_be_called_are_no_reason_to_refuse() -> None:
    tools = [{"type": "function", "function": {"name": "look"}}]
    assert chat(tools=tools, tool_choice="none").tools == tools
    with pytest.raises(ApiError, match="tools is not supported; remove it, or set tool_choice to none"):
        chat(tools=tools)
