"""Calls by the official client, LiteLLM and LangChain, for clients.py: client_libraries.py URL FILE."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import litellm
from langchain_openai import ChatOpenAI
from langchain_openai import OpenAI as LangChainOpenAI
from openai import OpenAI

URL, OUT = sys.argv[1], Path(sys.argv[2])
MESSAGES = [{"role": "user", "content": "hello"}]
ASKED = {"messages": MESSAGES, "max_tokens": 5}
TOO_LONG = [{"role": "user", "content": "hello " * 20_000}]

client = OpenAI(base_url=URL, api_key="none")
model = client.models.list().data[0].id
usage = {"include_usage": True}
there = {"model": f"openai/{model}", "api_base": URL, "api_key": "none"}
chain = {"model": model, "base_url": URL, "api_key": "none", "max_tokens": 5}
found = {
    "openai": client.chat.completions.create(model=model, **ASKED).usage.completion_tokens,
    "openai, streamed": len(
        list(client.chat.completions.create(model=model, stream=True, stream_options=usage, **ASKED))
    ),
    "openai, completion": client.completions.create(model=model, prompt="hello").usage.completion_tokens,
    "litellm": litellm.completion(**there, **ASKED).usage.completion_tokens,
    "litellm, streamed": len(list(litellm.completion(**there, **ASKED, stream=True))),
    "langchain": ChatOpenAI(**chain).invoke("hello").usage_metadata["output_tokens"],
    "langchain, streamed": len(list(ChatOpenAI(**chain).stream("hello"))),
    "langchain, completion": len(LangChainOpenAI(**chain).invoke("hello")),
}
try:
    litellm.completion(**there, messages=TOO_LONG)
except litellm.BadRequestError as error:  # ContextWindowExceededError, where it knows the words
    found["litellm, too long"] = type(error).__name__
OUT.write_text(json.dumps(found), encoding="utf-8")
