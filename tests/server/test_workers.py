"""A worker that dies, hangs or talks nonsense costs no answer that could be saved."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from triptych.engine.messages import Load, Ready, Round
from triptych.engine.server.client import Client
from triptych.engine.server.server import Settings
from triptych.engine.server.supervisor import Patience
from triptych.engine.threads import ENVIRONMENT

from .serving import Served, running
from .wire import assert_clean, events, texts


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("die", [0, 3])
def test_an_answer_survives_its_worker(served: Served, stream: bool, die: int) -> None:
    answer = served.complete({"say": "hello there", "die": die, "delay": 0.01}, stream=stream)
    assert (texts(answer) if stream else answer.json()["choices"][0]["text"]) == "hello there"
    assert served.metric("triptych_worker_restarts_total") == 1
    first, second = served.events("submit")
    assert second["tokens"] == first["tokens"] + die
    assert second["sampling"]["max_tokens"] == first["sampling"]["max_tokens"] - die
    assert_clean(served)


def test_an_answer_with_a_seed_begins_again_if_nobody_has_seen_it(served: Served) -> None:
    answer = served.complete({"say": "hello", "die": 3}, seed=5, logprobs=0).json()["choices"][0]
    assert answer["text"] == "hello"
    assert answer["logprobs"]["tokens"] == [*"hello", "<|end|>"]
    first, second = served.events("submit")
    assert second["tokens"] == first["tokens"]


@pytest.mark.parametrize("fields", [{"seed": 5}, {"presence_penalty": 1}, {"frequency_penalty": 1}])
def test_a_streamed_answer_that_cannot_be_continued_fails(served: Served, fields: dict[str, Any]) -> None:
    answer = served.complete({"say": "hello", "die": 3, "delay": 0.01}, stream=True, **fields)
    *_, error, done = events(answer.text)
    assert error["error"]["code"] == "worker_died"
    assert done == "[DONE]"
    assert served.complete({"say": "next"}).json()["choices"][0]["text"] == "next"


def test_greedy_answers_are_continued_whatever_their_seed(served: Served) -> None:
    script = {"say": "hello", "die": 3, "delay": 0.01}
    assert texts(served.complete(script, stream=True, seed=5, temperature=0)) == "hello"


def test_all_answers_under_way_survive_together(served: Served) -> None:
    with ThreadPoolExecutor(20) as threads:
        slow = [threads.submit(served.complete, {"say": f"slow {i}", "delay": 0.03}) for i in range(19)]
        threads.submit(served.complete, {"say": "killer", "die": 2, "delay": 0.05}).result()
        assert [answer.result().json()["choices"][0]["text"] for answer in slow] == [
            f"slow {i}" for i in range(19)
        ]
    assert_clean(served)


def test_a_request_that_kills_every_worker_is_given_up(tmp_path: Path) -> None:
    with running(tmp_path, Settings(port=0, patience=Patience(first_pause=0.01))) as served:
        answer = served.complete({"say": "hello", "die": 2, "times": 9})
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "worker_died")
        assert served.complete({"say": "fine"}).json()["choices"][0]["text"] == "fine"


def test_a_worker_that_is_killed_from_outside_is_replaced(served: Served) -> None:
    for _ in range(2):
        pid = served.events("ready")[-1]["pid"]
        os.kill(pid, signal.SIGKILL)
        served.wait_until(lambda pid=pid: served.events("ready")[-1]["pid"] != pid and served.is_ready())
    assert served.complete({"say": "fine"}).json()["choices"][0]["text"] == "fine"


def test_a_worker_keeps_few_kernels_unless_its_user_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "77")
    with running(tmp_path) as served:
        found = psutil.Process(served.events("ready")[-1]["pid"]).environ()
    assert found["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == ENVIRONMENT["ONEDNN_PRIMITIVE_CACHE_CAPACITY"]
    assert found["MALLOC_TRIM_THRESHOLD_"] == ENVIRONMENT["MALLOC_TRIM_THRESHOLD_"]
    assert found["LRU_CACHE_CAPACITY"] == "77"
    assert found["OMP_WAIT_POLICY"] == "PASSIVE"


def test_a_worker_that_hangs_is_replaced(tmp_path: Path) -> None:
    with running(tmp_path, Settings(port=0, patience=Patience(silence=0.3))) as served:
        assert served.complete({"say": "hello", "hang": 2}).json()["choices"][0]["text"] == "hello"
        time.sleep(0.5)  # nothing to do is no reason to be killed
        assert served.metric("triptych_worker_restarts_total") == 1


def test_a_worker_that_keeps_dying_is_given_up(tmp_path: Path) -> None:
    settings = Settings(port=0, patience=Patience(deaths=3, first_pause=0.01))
    with running(tmp_path, settings, worker=("--crash-again",)) as served:
        answer = served.complete({"say": "hello", "die": 2})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "server_stopping")
        served.wait_until(lambda: served.code is not None)
        assert served.code == 1


def test_what_is_no_message_is_dropped(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    assert served.complete({"say": "hello", "garbage": True}).json()["choices"][0]["text"] == "hello"
    assert caplog.text.count("dropped a message") == 3
    assert served.metric("triptych_worker_restarts_total") == 0


def test_while_the_model_is_loaded_requests_are_told_to_come_back(tmp_path: Path) -> None:
    with running(tmp_path, worker=("--load-seconds", "0.7"), ready=False) as served:
        assert served.http.get("/health").status_code == 200
        probe, answer = served.http.get("/ready"), served.complete({"say": "hi"})
        assert (probe.status_code, answer.status_code) == (503, 503)
        assert "being loaded" in answer.json()["error"]["message"]
        assert answer.headers["retry-after"] == probe.headers["retry-after"] == "1"
        served.wait_until(served.is_ready)


@pytest.mark.parametrize(("how", "code"), [("--refuse", 2), ("--crash", 1)])
def test_a_worker_that_cannot_start_ends_the_server(tmp_path: Path, how: str, code: int) -> None:
    with running(tmp_path, worker=(how,), ready=False) as served:
        served.wait_until(lambda: served.code is not None)
        assert served.code == code


def test_a_worker_that_hangs_is_not_ready_long_before_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("triptych.engine.server.client._ITERATION", 0.05)
    settings = Settings(port=0, patience=Patience(silence=5))
    with running(tmp_path, settings) as served, ThreadPoolExecutor(1) as threads:
        hung = threads.submit(served.complete, {"say": "hello", "hang": 2})
        served.wait_until(lambda: not served.is_ready(), 4.5)
        assert served.http.get("/ready").json()["status"].startswith("the worker has said nothing for longer")
        assert served.http.get("/health").status_code == 200
        assert hung.result().json()["choices"][0]["text"] == "hello"
        served.wait_until(served.is_ready)


def test_an_iteration_may_take_as_long_as_one_has_taken_or_is_predicted_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("triptych.engine.server.client.monotonic", lambda: now)
    owing = property(lambda self: True)
    monkeypatch.setattr(Client, "worker_owes", owing)
    for predicted, took, patience in ((0.0, 0.5, 5.0), (0.0, 4.0, 20.0), (7.0, 4.0, 35.0)):
        client = Client(None, None, lambda load: None)  # type: ignore[arg-type]
        client.ready = Ready(1, 100, 10, 16, predicted)
        now += took
        client.receive(Round([], Load(*[0] * 11)))
        now += patience - 0.01
        assert not client.stalled
        now += 0.02
        assert client.stalled
