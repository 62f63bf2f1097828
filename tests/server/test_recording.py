"""What was recorded is kept, and kept apart, however servers end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.engine import tiny
from tests.engine.test_spool import DEPLOYMENT, work

from triptych.engine.server.recording import Recording, recover
from triptych.engine.spool import SpooledLog, spool_files
from triptych.plan import plan_pools
from triptych.record import read_run
from triptych.spec.base import SpecError

from .command import ROOT, Process, declare, served


def leave(record: Path, seed: int) -> int:
    """What a worker leaves that dies; how many requests had come."""
    log: SpooledLog = work(record, zero=seed, policy="sarathi", turns=30, seed=seed)
    os.close(log._file)
    return len(log.output_tokens)


def test_a_second_server_with_the_same_record_is_refused(tmp_path: Path) -> None:
    record = tmp_path / "run"
    with Recording(record).held():
        with pytest.raises(SpecError, match="run: --record: another server is recording here"):
            Recording(record).held().__enter__()
        with pytest.raises(SpecError, match="another server is recording here"):
            recover(record)
        with Recording(tmp_path / "other").held():
            pass
    with Recording(record).held():
        pass
    assert not list(tmp_path.iterdir())


def test_what_an_earlier_server_left_becomes_its_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = tmp_path / "run"
    first = leave(record, 1)
    with Recording(record).held():
        assert spool_files(record) == []
        assert not record.exists()
        assert len(read_run(tmp_path / "run.1")) == first
    second = leave(record, 2)
    recover(record)
    assert len(read_run(record)) == second
    third = leave(record, 3)
    assert recover(record) == tmp_path / "run.2"
    run = read_run(record)
    assert (len(run), run.interrupted, run.meta["worker_restarts"]) == (third, True, 0)
    assert 0 < run.horizon < 60
    assert {file.name for file in tmp_path.iterdir()} == {"run", "run.1", "run.2"}
    with pytest.raises(SpecError, match="no server has left anything to recover here"):
        recover(record)


def test_a_worker_that_still_writes_is_left_alone(tmp_path: Path) -> None:
    log = work(tmp_path / "run", zero=1, policy="sarathi", turns=9, seed=1)
    with pytest.raises(SpecError, match="a worker of an earlier server is still recording"):
        recover(tmp_path / "run")
    log.close()
    recover(tmp_path / "run")
    assert len(read_run(tmp_path / "run")) == len(log.output_tokens)


def test_a_full_disk_at_the_end_is_one_line_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    record, plan = tmp_path / "run", plan_pools(DEPLOYMENT)[0]

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    recording = Recording(record)
    with recording.held():
        count = leave(record, 1)
        with monkeypatch.context() as patched:
            patched.setattr("triptych.engine.gather.write_run", full)
            assert not recording.finish(plan, DEPLOYMENT, gather=True, interrupted=False)
    assert caplog.messages == [
        "the record is not written: No space left on device",
        f"what was recorded is kept; `triptych recover {record}` makes it a record",
    ]
    recover(record)
    assert len(read_run(record)) == count


@contextmanager
def recorded(folder: Path, **environment: str) -> Iterator[Process]:
    file = declare(tiny.config_file("opt", folder), folder)
    with served(file, "--port", "0", "--record", str(folder / "record"), environment=environment) as process:
        yield process


def test_a_server_of_no_requests_ends_without_a_word_too_many(tmp_path: Path) -> None:
    with recorded(tmp_path) as server:
        assert server.stop() == 0
    said = (tmp_path / "log").read_text()
    assert "Traceback" not in said
    assert "no request came, so there is no record" in said
    assert not [file.name for file in tmp_path.iterdir() if file.name.startswith((".", "record"))]


def test_a_server_that_is_killed_is_recovered(tmp_path: Path) -> None:
    """SIGKILL of the front end; its worker sees that and ends."""
    with recorded(tmp_path) as server:
        server.client.completions.create(model=server.model, prompt="x", max_tokens=3)
        worker = server.worker
        server.process.send_signal(signal.SIGSTOP)  # not even a signal handler runs
        worker.kill()
        server.process.kill()
        server.process.wait()
    record = tmp_path / "record"
    end = time.monotonic() + 10
    while worker.is_running() and time.monotonic() < end:
        time.sleep(0.05)
    command = [sys.executable, "-m", "triptych", "recover", str(record)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": "src"}, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert read_run(record).column("status").tolist() == ["finished"]
    assert json.loads((record / "run.json").read_text())["interrupted"] is True
