"""A benchmark goes on when one of those it compares fails, and says which and why."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[1]
JOB = {"prompts": [[1, 2]], "arrivals": [0.0], "output": 3}
HEAD = "import json, sys\nprint('loading', file=sys.stderr)\n"
ANSWER = "print(json.dumps({'first': [0.1], 'last': [0.2], 'tokens': [TOKENS]}), flush=True)\n"
STEADY = HEAD + "print('ready', flush=True)\nfor line in sys.stdin:\n    " + ANSWER.replace("TOKENS", "3")
CHILD = "import subprocess\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'])\n"
"""It holds the pipes open for as long as it lives."""
SCRIPTS = {
    "steady.py": STEADY,
    "other.py": STEADY,
    "dies_at_once.py": HEAD + "raise ImportError('no such engine')\n",
    "dies_later.py": STEADY + "    sys.exit('out of memory')\n",
    "brief.py": STEADY.replace("[3]", "[2]"),
    "never_ready.py": HEAD + CHILD + "import time\ntime.sleep(1000)\n",
    "hangs.py": HEAD + "print('ready', flush=True)\nsys.stdin.readline()\nimport time\ntime.sleep(1000)\n",
    "takes_no_job.py": HEAD + "print('ready', flush=True)\nimport time\ntime.sleep(1000)\n",
}


@pytest.fixture
def contest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes a contest of scripts."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import contest as module

    monkeypatch.setattr(module, "CONTESTANTS", tmp_path)
    for name, text in SCRIPTS.items():
        (tmp_path / name).write_text(text)
    options = Namespace(chunk=16, device="CPU")

    def make(*names: str, python: str = sys.executable) -> Any:
        entrants = {name: (f"{name}.py", python) for name in names}
        return module.Contest(tmp_path, "bf16", options, entrants, 1, 64)

    return make


def test_each_answers_in_turn(contest: Callable[..., Any]) -> None:
    with contest("steady") as present:
        for _ in range(2):
            assert present.run("steady", JOB)["last"] == [0.2]
        assert present.seconds("steady") == pytest.approx(0.4)
        assert present.failed == {}


@pytest.mark.parametrize(
    ("name", "short", "says"),
    [
        ("dies_at_once", "ended with exit code 1", ["it said last:", "ImportError: no such engine"]),
        ("dies_later", "ended with exit code 1", ["loading", "out of memory"]),
        ("brief", "gave other than 3 tokens for a prompt", []),
    ],
)
def test_one_that_fails_is_told_of_and_the_others_go_on(
    contest: Callable[..., Any], capsys: pytest.CaptureFixture[str], name: str, short: str, says: list[str]
) -> None:
    with contest("steady", name) as present:
        found = [present.run(name, JOB) for _ in range(3)]
        assert found[-1] is None
        assert present.run("steady", JOB) is not None
        assert present.failed == {name: short}
        assert present.names == ("steady", name)
    told = capsys.readouterr().err
    assert told.startswith(f"engine: {name} is out of it")
    assert all(words in told for words in says)


@pytest.mark.parametrize("name", ["hangs", "takes_no_job"])
def test_one_that_hangs_is_ended_and_the_others_go_on(
    contest: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setattr("contest._GRACE", 1.0)
    with contest("steady", name) as present:
        monkeypatch.setattr("contest._SLOWEST", float("inf"))
        assert present.run(name, JOB) is None
        assert present.failed == {name: "no answer in 1 s"}
        assert present.run("steady", JOB) is not None
    assert "no answer in 1 s\n    it said last:\n    loading" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["hangs", "takes_no_job"])
def test_a_job_that_nobody_reads_is_bounded_too(
    contest: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from contest import Contestant, ContestantError

    contest()
    monkeypatch.setattr("contest._GRACE", 1.0)
    monkeypatch.setattr("contest._SLOWEST", float("inf"))
    many = {"prompts": [[1, 2]] * 100_000, "arrivals": [0.0], "output": 3}  # more than a pipe holds
    hung = Contestant(f"{name}.py", sys.executable, [], 1)
    with pytest.raises(ContestantError, match="no answer in 1 s"):
        hung.run(many)
    hung.close()
    assert not psutil.pid_exists(hung._process.pid)


@pytest.mark.parametrize(("short", "started"), [(False, 2), (True, 1)])
def test_where_memory_is_short_one_is_there_at_a_time(
    contest: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, short: bool, started: int
) -> None:
    free = Namespace(available=1e9 if short else 1e15)
    monkeypatch.setattr("contest.psutil.virtual_memory", lambda: free)
    with contest("steady", "other") as present:
        for _ in range(2):
            for name in present.names:
                assert present.run(name, JOB) is not None
                assert len(present._contestants) <= started
        assert len(present._contestants) == started


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_benchmark_that_is_ended_leaves_no_process(
    contest: Callable[..., Any], tmp_path: Path, number: signal.Signals
) -> None:
    contest()
    script = f"""
import sys
from argparse import Namespace
from pathlib import Path
sys.path.insert(0, {str(ROOT / "benchmarks")!r})
import contest
contest.CONTESTANTS = Path({str(tmp_path)!r})
contest.end_on_signals()
entrants = {{"never_ready": ("never_ready.py", sys.executable)}}
options = Namespace(chunk=16, device="CPU")
with contest.Contest(contest.CONTESTANTS, "bf16", options, entrants, 1, 64) as present:
    present.run("never_ready", {JOB!r})
"""
    with subprocess.Popen([sys.executable, "-c", script], start_new_session=True) as benchmark:
        own = psutil.Process(benchmark.pid)
        while len(own.children(recursive=True)) < 2:  # the contestant, and what it has started
            time.sleep(0.05)
        started = own.children(recursive=True)
        os.kill(benchmark.pid, number)
        benchmark.wait(30)
    _, alive = psutil.wait_procs(started, 10)
    assert not alive


def test_one_that_never_gets_ready_is_ended_with_all_that_it_has_started(
    contest: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contest._START_SECONDS", 1.0)
    with contest("never_ready") as present:
        assert present.run("never_ready", JOB) is None
        assert present.failed == {"never_ready": "no answer in 1 s"}


def test_how_long_a_job_may_take_follows_from_its_work(contest: Callable[..., Any]) -> None:
    """A minute, then from the last arrival twenty tokens a second."""
    from contest import limit

    assert limit(JOB) == 60 + 5 / 20
    assert (
        limit({"prompts": [[1] * 512] * 60, "arrivals": [0.0, 90.0], "output": 20}) == 60 + 90 + 60 * 532 / 20
    )


def test_an_interpreter_that_is_not_there_is_told_of(
    contest: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with contest("steady", python="/none/python") as present:
        assert present.run("steady", JOB) is None
    assert "/none/python cannot be started: No such file" in capsys.readouterr().err
