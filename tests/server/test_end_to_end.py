"""`triptych serve` with a real model: the command, the worker process, and what comes out of it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from pathlib import Path
from string import ascii_lowercase
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch
from PIL import Image
from tests.engine import tiny

from triptych.engine.images import load_image_reader
from triptych.engine.server.prompts import Vocabulary, expand
from triptych.engine.server.text import Answer
from triptych.engine.tokenizer import load_tokenizer
from triptych.record import read_run

from .alone import Alone
from .command import ROOT, Process, serving
from .wire import events

QUESTION = "what is this"
OUTPUT = 12


@pytest.fixture(scope="module")
def text_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with serving("qwen3", tmp_path_factory.mktemp("text"), "--model-name", "tiny") as process:
        yield process


def photograph(seed: int, width: int = 70, height: int = 50) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


@cache
def reference(family: str, files: tuple[bytes, ...] = ()) -> str:
    """What transformers answers."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        loaded = tiny.build(family, Path(folder), attention="eager")
        name = f"random:{tiny.config_file(family, Path(folder))}"
        vocabulary = Vocabulary(load_tokenizer(name))
        reader = load_image_reader(name)
    content: Any = [{"type": "image"} for _ in files] + [{"type": "text", "text": QUESTION}]
    tokenizer = vocabulary._tokenizer
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content if files else QUESTION}],
        tokenize=False,
        add_generation_prompt=True,
    )
    tokens = vocabulary.encode(str(text), special=False)
    more: dict[str, Any] = {}
    if files:
        assert reader is not None
        images = [reader.read(file) for file in files]
        tokens = expand(tokens, images, reader.placeholder)
        opened = [Image.open(BytesIO(file)) for file in files]
        more |= reader._processor(images=opened, return_tensors="pt")
        more["mm_token_type_ids"] = (torch.tensor([tokens]) == reader.placeholder).int()
    ids = torch.tensor([tokens])
    more["attention_mask"] = torch.ones_like(ids)
    out = loaded.model.generate(
        ids, max_new_tokens=OUTPUT, do_sample=False, eos_token_id=None, pad_token_id=0, **more
    )
    # Step by step, as a server decodes: broken characters come out otherwise if all are decoded at once.
    return Answer(vocabulary.decode).add(out[0, len(tokens) :].tolist(), "length").text


def ask(server: Process, files: tuple[bytes, ...] = (), **more: Any) -> Any:
    urls = ["data:image/png;base64," + base64.b64encode(file).decode() for file in files]
    content: Any = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    content.append({"type": "text", "text": QUESTION})
    return server.client.chat.completions.create(
        model=server.model,
        messages=[{"role": "user", "content": content}],
        max_tokens=OUTPUT,
        temperature=0,
        extra_body={"ignore_eos": True},
        **more,
    )


def test_an_answer_is_that_of_transformers(text_server: Process) -> None:
    answer = ask(text_server)
    assert answer.choices[0].message.content == reference("qwen3")
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == OUTPUT
    again = ask(text_server)
    assert again.choices[0].message.content == reference("qwen3")
    assert again.usage.prompt_tokens_details.cached_tokens > 0


def test_a_stream_is_that_of_transformers(text_server: Process) -> None:
    chunks = ask(text_server, stream=True, stream_options={"include_usage": True})
    *parts, usage = list(chunks)
    assert "".join(part.choices[0].delta.content or "" for part in parts) == reference("qwen3")
    assert usage.usage.completion_tokens == OUTPUT


def test_log_probabilities_are_those_of_the_tokens(text_server: Process) -> None:
    content = ask(text_server, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert len(content) == OUTPUT
    for entry in content:
        assert entry.top_logprobs[0].token == entry.token  # greedy
        assert entry.logprob == entry.top_logprobs[0].logprob > entry.top_logprobs[1].logprob


def test_a_seed_repeats_an_answer(text_server: Process) -> None:
    def draw(seed: int) -> list[str]:
        answer = text_server.client.completions.create(
            model="tiny", prompt="hello", max_tokens=20, seed=seed, n=2, extra_body={"ignore_eos": True}
        )
        return [choice.text for choice in answer.choices]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert len(set(draw(1))) == 2


def test_a_bias_decides_every_token_of_its_own_answer(text_server: Process) -> None:
    async def ask(token: int) -> list[str]:
        body = {"prompt": "hello", "max_tokens": 6, "logit_bias": {token: 100}, "ignore_eos": True}
        more = {"logprobs": 0, "frequency_penalty": 0.5, "temperature": 0.5}
        async with httpx.AsyncClient(base_url=text_server.url, timeout=60) as http:
            answer = await http.post("/v1/completions", json=body | more)
        assert answer.status_code == 200, answer.text
        tokens: list[str] = answer.json()["choices"][0]["logprobs"]["tokens"]
        return tokens

    async def ask_all() -> list[list[str]]:
        return await asyncio.gather(*map(ask, range(10, 16)))

    found = asyncio.run(ask_all())
    assert [len(set(tokens)) for tokens in found] == [1] * 6
    assert len({tokens[0] for tokens in found}) == 6
    outside = {"prompt": "hello", "logit_bias": {"99999": 1}}
    answer = httpx.post(f"{text_server.url}/v1/completions", json=outside, timeout=30)
    assert (answer.status_code, "logit_bias" in answer.text) == (400, True)


def test_a_prompt_that_does_not_fit_is_refused(text_server: Process) -> None:
    with pytest.raises(openai.BadRequestError, match="maximum context length is 512 tokens"):
        text_server.client.completions.create(model="tiny", prompt="x y z " * 400, max_tokens=5)


def prompts(count: int) -> list[tuple[str, int]]:
    """Prompts of many lengths, some of which begin alike, and how many tokens to answer with."""
    chance = random.Random(0)
    heads = [" ".join(chance.choices(ascii_lowercase, k=40)) for _ in range(3)]
    return [
        (f"{chance.choice(['', *heads])} number {number}" + " x" * chance.randrange(30), 5 + number % 30)
        for number in range(count)
    ]


def test_200_at_once_are_answered_as_each_alone(text_server: Process) -> None:
    asked = prompts(200)

    async def ask_one(http: httpx.AsyncClient, prompt: str, output: int, stream: bool) -> list[str]:
        body = {"prompt": prompt, "max_tokens": output, "temperature": 0, "ignore_eos": True, "logprobs": 0}
        answer = await http.post("/v1/completions", json={**body, "stream": stream})
        assert answer.status_code == 200, answer.text
        wholes = events(answer.text)[:-1] if stream else [answer.json()]
        return [token for whole in wholes for token in whole["choices"][0]["logprobs"]["tokens"]]

    async def ask_all() -> list[list[str]]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=text_server.url, timeout=120, limits=limits) as http:
            answers = (ask_one(http, *one, stream=number % 2 == 0) for number, one in enumerate(asked))
            return await asyncio.gather(*answers)

    found = asyncio.run(ask_all())
    alone = Alone(text_server.record.with_name("deployment.yaml"))
    assert found == [alone.spell(alone.completion(*one)) for one in asked]
    assert set(text_server.left().values()) == {0.0}


def test_a_killed_worker_costs_no_answer(text_server: Process) -> None:
    stream = ask(text_server, stream=True)
    text = next(stream).choices[0].delta.content or ""
    text_server.worker.kill()
    text += "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == reference("qwen3")
    assert ask(text_server).choices[0].message.content == reference("qwen3")


def test_the_end_leaves_a_record(text_server: Process) -> None:
    """The last test of this server."""
    before = httpx.get(f"{text_server.url}/metrics").text
    assert "triptych_kv_blocks 300.0" in before
    ask(text_server)
    assert text_server.stop() == 0
    run = read_run(text_server.record)
    assert run.producer == "serve"
    assert run.meta["worker_restarts"] == 1
    names = run.column("status").tolist()
    assert names.count("finished") > 200  # by the worker that was killed, most of them
    assert len(names) - names.count("finished") == names.count("running") == 1
    (lane,) = run.lanes
    assert (np.diff(lane["start"]) > 0).all()
    assert np.isfinite(run.column("itl_p50")[run.finished]).all()
    assert [file for file in text_server.record.parent.iterdir() if file.suffix == ".spool"] == []


@pytest.mark.parametrize("family", ["qwen2_5_vl"])
def test_an_answer_about_images_is_that_of_transformers(family: str, tmp_path: Path) -> None:
    one, two = photograph(1), photograph(2, 120, 90)
    with serving(family, tmp_path) as server:
        for files in ((one,), (two,), (one, two), ()):
            assert ask(server, files).choices[0].message.content == reference(family, files)
        assert server.stop() == 0


def test_a_model_that_cannot_be_served_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "deployment.yaml"
    pool = {"phases": ["prefill", "decode"], "device": "CPU", "scheduler": {"policy": "orca"}, "instances": 2}
    model = f"random:{tiny.config_file('opt', tmp_path)}"
    file.write_text(json.dumps({"model": model, "pools": {"all": pool}}), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "triptych", "serve", str(file), "--port", "0"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "src"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    problem = "2 instances cannot be served yet; use instances: 1"
    assert done.stderr.splitlines() == [f"triptych: {file}: pools.all.instances: {problem}"]
