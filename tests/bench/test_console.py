"""`triptych bench` as a person runs it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from triptych.bench.interrupts import Interrupts

from .fake_server import serving

SOURCES = Path(__file__).parents[2] / "src"
WORKLOAD = """
requests: 20
arrivals: {kind: constant, rate: 100}
prompt: {kind: fixed, tokens: 20}
output: {kind: fixed, tokens: 3}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("w.yaml").write_text(WORKLOAD)
    return tmp_path


def start(*arguments: str) -> subprocess.Popen[str]:
    program = [sys.executable, "-c", "from triptych.cli import main; main()", "bench", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), "COLUMNS": "80"}
    environment.pop("FORCE_COLOR", None)
    return subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def run(*arguments: str) -> tuple[int, str, str]:
    process = start(*arguments)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.usefixtures("here")
def test_a_run_prints_its_tables_and_leaves_its_record() -> None:
    with serving(first=0.02, gap=0.01) as fake:
        code, out, err = run(
            "w.yaml", "--url", fake.url, "--out", "run", "--slo", "ttft.p99=5 s", "--warmup", "2"
        )
    assert (code, err) == (0, "")
    assert len(fake.asked) == 22
    assert "20 of 20 requests finished" in out
    assert "lateness" in out
    assert "met" in out
    assert max(map(len, out.splitlines())) <= 80
    assert [line for line in out.splitlines() if line != line.rstrip()] == []
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["producer"] == "bench"
    assert 0.02 <= summary["latency"]["ttft"]["p50"] < 0.05
    assert {"client.parquet", "requests.parquet", "spans.parquet"} <= {p.name for p in Path("run").iterdir()}


@pytest.mark.usefixtures("here")
def test_what_the_server_refuses_is_shown() -> None:
    busy = (503, {"error": {"message": "the queue is full"}})
    seen: list[int] = []

    def every_other(body: dict[str, object]) -> tuple[int, dict[str, object]] | None:
        seen.append(1)
        return busy if len(seen) > 2 and len(seen) % 2 else None

    with serving(refuse=every_other) as fake:
        code, out, _ = run("w.yaml", "--url", fake.url)
    assert code == 0
    assert "10 rejected" in out
    assert "10 x status 503: the queue is full" in " ".join(out.split())


@pytest.mark.usefixtures("here")
def test_an_interrupt_keeps_what_is_finished() -> None:
    with serving() as fake:
        process = start("w.yaml", "--url", fake.url, "--out", "run", "--set", "requests=10000")
        deadline = time.monotonic() + 30
        while len(fake.asked) < 30:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "")
    assert "interrupted" in out
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["interrupted"]
    assert 20 < summary["counts"]["finished"] < 5000


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("attempt", range(3))
def test_a_second_interrupt_ends_it_and_says_nothing(attempt: int) -> None:
    with serving(gap=30) as fake:
        process = start("w.yaml", "--url", fake.url, "--out", "run", "--set", "requests=2000")
        deadline = time.monotonic() + 30
        while len(fake.asked) < 30 * (attempt + 1):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        time.sleep(0.005 * attempt)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "")
    assert out == "" or "interrupted" in out  # it had ended before the second came


def test_a_second_interrupt_waits_until_connections_can_be_closed() -> None:
    interrupts = Interrupts()

    async def run() -> None:
        interrupts.note(signal.SIGINT, None)
        interrupts.note(signal.SIGINT, None)
        with pytest.raises(KeyboardInterrupt):
            interrupts.note(signal.SIGINT, None)

    asyncio.run(run())
    with pytest.raises(KeyboardInterrupt):
        interrupts.check()


def test_outside_of_a_run_it_ends_all_at_once() -> None:
    interrupts = Interrupts()
    interrupts.note(signal.SIGINT, None)
    interrupts.check()
    with pytest.raises(KeyboardInterrupt):
        interrupts.note(signal.SIGINT, None)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--url", "127.0.0.1"], "triptych: --url: '127.0.0.1' is no address"),
        (
            ["--url", "http://127.0.0.1:9/v1"],
            "triptych: --url: http://127.0.0.1:9/v1 cannot be reached: nothing listens at 127.0.0.1:9; start",
        ),
        (["--set", "model=/none"], "triptych: --set model=/none: model is of the deployment"),
        (["--set", "pools.all.instances=2"], "triptych: --set pools.all.instances=2: pools is of the deploy"),
        (["--set", "requests=0"], "triptych: w.yaml: requests:"),
        (["--slo", "ttft.p98=1 s"], "triptych: w.yaml: slo.ttft: 'p98' is no statistic"),
        (["--out", "."], "triptych: .: holds something that is no run"),
        (["--sweep", "1", "--out", "."], "triptych: .: holds something that is no sweep"),
        (["--sweep", "0"], "triptych: --sweep: must be a rate above 0"),
        (["--warmup", "-1"], "triptych: --warmup: must be 0 or more"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], line: str) -> None:
    code, out, err = run("w.yaml", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(line)
    assert err.count("\n") == 1
