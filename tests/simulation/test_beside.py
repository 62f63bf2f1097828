"""The two runs of an interval on two cores: the same figures, and a process that is never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

import triptych
from triptych.simulation import again, beside
from triptych.simulation.again import Case
from triptych.simulation.beside import Beside

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = (EXAMPLES / "deployments" / "epd.yaml", EXAMPLES / "workloads" / "vision-chat.yaml")
FEW = ("workload.requests=100",)


def always(_: object) -> bool:
    return True


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were cores, and the runs took long."""
    monkeypatch.setattr(again, "another_pays", always)


def run_here(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A list that will hold what is run again in this process."""
    runs: list[object] = []
    real = Case.figures

    def figures(case: Case, *arguments: Any) -> Any:
        runs.append(arguments[0])
        return real(case, *arguments)

    monkeypatch.setattr(Case, "figures", figures)
    return runs


def test_the_interval_is_the_same_to_the_bit(at_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = run_here(monkeypatch)
    one = triptych.simulate(*FILES, overrides=FEW, interval=True).meta["interval"]
    assert len(runs) == 1, "the other run was made elsewhere"
    monkeypatch.setattr(again, "another_pays", lambda seconds: False)
    other = triptych.simulate(*FILES, overrides=FEW, interval=True).meta["interval"]
    assert len(runs) == 3
    assert one == other


def test_who_stops_it_gets_the_run_without_an_interval(at_once: None) -> None:
    ended = 0

    def progress(done: int, total: int, virtual: float) -> bool:
        nonlocal ended
        again_from_the_start = done < ended
        ended = done
        return not again_from_the_start

    overrides = ("workload.requests=2000",)
    run = triptych.simulate(*FILES, overrides=overrides, interval=True, progress=progress)
    assert not run.interrupted
    assert "interval" not in run.meta


def test_a_script_needs_no_guard_and_prints_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import triptych\n"
        "from triptych.simulation import again\n"
        "again.another_pays = lambda seconds: True\n"
        f"run = triptych.simulate({str(FILES[0])!r}, {str(FILES[1])!r}, overrides={FEW!r}, interval=True)\n"
        "print(sorted(run.meta['interval'])[:2])\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=True)
    assert (done.stdout, done.stderr) == ("['deviation', 'e2e']\n", "")


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_other_process_ends_with_this_one(end: signal.Signals) -> None:
    script = (
        "import time\n"
        "from triptych.simulation.beside import Beside\n"
        "with Beside(time.sleep, 600) as other:\n"
        "    print(other._process.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        other = int(process.stdout.readline())
        process.send_signal(end)
    deadline = time.monotonic() + 60
    while _is_alive(other):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("work", "arguments"), [(int, ["none"]), (os._exit, [3]), (lambda: 1, []), (print, ["no result"])]
)
def test_what_goes_wrong_there_has_no_result(work: Any, arguments: Sequence[Any]) -> None:
    with Beside(work, *arguments) as other:
        assert other.result(lambda: True) is None
        assert not other.stopped


def test_what_has_no_result_there_is_done_here(at_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(FILES[0]))  # cannot be run
    runs = run_here(monkeypatch)
    assert "ttft" in triptych.simulate(*FILES, overrides=FEW, interval=True).meta["interval"]
    assert len(runs) == 2


def test_it_pays_for_long_work_where_there_are_cores_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "_cores", lambda: 2)
    monkeypatch.setattr(beside, "_memory_taken", lambda: 2.0)
    monkeypatch.setattr(beside, "_memory_left", lambda: float("inf"))
    assert beside.another_pays(60.0)
    assert not beside.another_pays(0.5)
    monkeypatch.setattr(beside, "_memory_left", lambda: 1.0)
    assert not beside.another_pays(60.0)
    monkeypatch.setattr(beside, "_memory_left", lambda: float("inf"))
    monkeypatch.setattr(beside, "_cores", lambda: 1)
    assert not beside.another_pays(60.0)
