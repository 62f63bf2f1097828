"""A server that is told to stop completes what is under way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from triptych.engine.server.server import Settings
from triptych.spec.base import SpecError

from .serving import Served, make_server
from .wire import texts


def test_what_is_under_way_is_completed_before_the_end(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(served.complete, {"say": "to the end", "delay": 0.1}, stream=True)
        served.wait_until(lambda: served.events("submit"))
        served.interrupt()
        served.wait_until(lambda: served.http.get("/ready").status_code == 503)
        refused = served.complete({"say": "hi"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "server_stopping")
        assert served.http.get("/health").status_code == 200
        assert "stopping: 1 request is under way; Ctrl-C again ends it at once" in caplog.messages
        assert texts(slow.result()) == "to the end"
    served.thread.join(5)
    assert served.code == 0
    assert served.events()[-1]["kind"] == "closed"


def test_a_second_signal_ends_at_once(served: Served) -> None:
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(served.complete, {"delay": 1})
        served.wait_until(lambda: served.events("submit"))
        served.interrupt()
        served.interrupt()
        served.thread.join(5)
        assert served.code == 130
        with pytest.raises(httpx.HTTPError):
            slow.result().raise_for_status()


def test_nothing_under_way_is_not_counted(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    served.interrupt()
    served.thread.join(5)
    assert served.code == 0
    assert "stopping; Ctrl-C again ends it at once" in caplog.messages


def test_a_port_that_is_taken_is_one_line(served: Served) -> None:
    with pytest.raises(SpecError, match=f"--port: 127.0.0.1:{served.server.port} cannot be used"):
        make_server(served.state, Settings(port=served.server.port))


def test_signals_reach_a_server_that_is_a_process(tmp_path: Path) -> None:
    """SIGTERM drains, the worker ends, and nothing is left in the folder but the worker's notes."""
    code = (
        "import sys, time; from pathlib import Path; from tests.server.serving import serve_here; "
        "sys.exit(serve_here(Path(sys.argv[1])))"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])}
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        url = re.search(r"http://[\d.:]+", line)
        assert url is not None, line
        prompt = json.dumps({"say": "to the end", "delay": 0.05})
        answers: list[httpx.Response] = []
        thread = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{url[0]}/v1/completions", json={"prompt": prompt}))
        )
        thread.start()
        while not (tmp_path / "events.jsonl").read_text().count("submit"):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        thread.join()
        assert answers[0].json()["choices"][0]["text"] == "to the end"
        assert [file.name for file in tmp_path.iterdir()] == ["events.jsonl"]
    finally:
        process.kill()
        process.communicate()
