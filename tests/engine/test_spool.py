"""What a worker has done is on disk, whenever it dies; what several have done becomes one record."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.engine.clock import TICK
from triptych.engine.core import Engine
from triptych.engine.gather import gather_record, join
from triptych.engine.messages import Abort, Sampling, Submit
from triptych.engine.spool import SpooledLog, read_spool, spool_files
from triptych.engine.trace_files import TABLE
from triptych.plan import PoolPlan, plan_pools
from triptych.policy import SCHEDULERS, EmbeddingCache, KVCache
from triptych.record import read_run
from triptych.record.assemble import request_columns, spans
from triptych.record.columns import BATCH_ROW
from triptych.spec.base import SpecError
from triptych.spec.deployment import Deployment

from .paper import PaperClock, PaperRunner

POLICIES = ("static", "orca", "vllm", "sarathi", "unified")
DEPLOYMENT = Deployment.parse(
    {
        "model": "random:opt-125m",
        "pools": {
            "all": {
                "phases": ["prefill", "decode"],
                "device": "CPU",
                "kv_blocks": 40,
                "block_size": 4,
                "scheduler": {"policy": "sarathi", "max_batch": 4},
            }
        },
    }
)


@pytest.fixture(scope="module")
def plan() -> PoolPlan:
    return plan_pools(DEPLOYMENT)[0]


def work(record: Path, *, zero: int, policy: str, turns: int, seed: int) -> SpooledLog:
    """An engine that dies after some turns, in the midst of a batch."""
    chance = random.Random(seed)
    kv = KVCache(40, 4, prefix_cache=True)
    scheduler = SCHEDULERS[policy](kv, EmbeddingCache(8, 4), max_batch=4)
    log = SpooledLog(
        scheduler,
        record,
        zero,
        {"torch": "2"},
        json.dumps(DEPLOYMENT.model_dump(mode="json", exclude_none=True)),
    )
    runner: Any = PaperRunner(40, 4, seed=seed)
    engine = Engine(runner, scheduler, log=log, clock=PaperClock(seed))
    for turn in range(turns):
        messages: list[Submit | Abort] = []
        if chance.random() < 0.6:
            tokens = [chance.randrange(48) for _ in range(chance.randrange(1, 40))]
            messages.append(Submit(str(turn), tokens, Sampling(max_tokens=chance.randrange(1, 30))))
        if chance.random() < 0.1:
            messages.append(Abort(str(chance.randrange(turn + 1))))
        engine.turn(messages)
        engine.compute()
    return log


@given(policy=st.sampled_from(POLICIES), turns=st.integers(0, 80), seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_what_is_on_disk_is_what_the_worker_knew(policy: str, turns: int, seed: int) -> None:
    with TemporaryDirectory() as folder:
        log = work(Path(folder) / "run", zero=5, policy=policy, turns=turns, seed=seed)
        (file,) = spool_files(Path(folder) / "run")
        found = read_spool(file)
    assert found is not None
    log.cut_short()
    known = request_columns(log.recorder, np.array(log.output_tokens, dtype=np.int64))
    for name, column in known.items():
        np.testing.assert_array_equal(found.requests[name], column, err_msg=name)
    assert found.batches.tobytes() == bytes(log.journal.rows)
    assert found.cpu_seconds.tolist() == log.cpu_seconds.tolist()
    for name, column in spans(log.recorder).columns.items():
        order = np.lexsort([found.spans["join"], found.spans["request"]])
        np.testing.assert_array_equal(found.spans[name][order], column, err_msg=name)
    assert (found.zero, found.meta) == (5, {"torch": "2"})


def test_a_frame_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    work(tmp_path / "run", zero=0, policy="sarathi", turns=30, seed=1)
    (file,) = spool_files(tmp_path / "run")
    data = file.read_bytes()
    whole = read_spool(file)
    file.write_bytes(data[:-3])
    cut = read_spool(file)
    assert whole is not None
    assert cut is not None
    assert 0 < len(whole.batches) - len(cut.batches) < 3
    file.write_bytes(data[:2])
    assert read_spool(file) is None


@pytest.mark.parametrize("written", [None, 1])
def test_what_a_full_disk_has_no_room_for_is_written_when_there_is_room(
    written: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = os.write
    full = iter([False] * 10 + [True] * 5 + [False] * 100)

    def sometimes(file: int, data: bytes) -> int:
        if not next(full):
            return write(file, data)
        if written is None:
            raise OSError(28, "No space left on device")
        return write(file, data[:written])

    monkeypatch.setattr("triptych.engine.spool.os.write", sometimes)
    monkeypatch.setattr("triptych.engine.spool._RETRY", 0.0)
    log = work(tmp_path / "run", zero=5, policy="sarathi", turns=60, seed=1)
    (file,) = spool_files(tmp_path / "run")
    found = read_spool(file)
    assert found is not None
    assert found.batches.tobytes() == bytes(log.journal.rows)
    assert len(found.requests) == len(log.output_tokens)
    assert capsys.readouterr().err.count("No space left on device") == 1


def test_a_disk_that_is_full_from_the_start_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("triptych.engine.spool.os.write", full)
    with pytest.raises(SpecError, match="run: --record: cannot be written: No space left on device"):
        work(tmp_path / "run", zero=0, policy="sarathi", turns=1, seed=1)
    assert not list(tmp_path.iterdir())


def test_the_record_of_two_workers_is_one(tmp_path: Path, plan: PoolPlan) -> None:
    record = tmp_path / "run"
    second = 2**20 * 1000  # ns: a whole number of ticks
    logs = [work(record, zero=zero, policy="sarathi", turns=40, seed=zero) for zero in (7, 7 + second)]
    workers = [found for file in spool_files(record) if (found := read_spool(file)) is not None]
    workers.sort(key=lambda worker: worker.zero)
    run = join(workers, plan, DEPLOYMENT, end=7 + 3 * second)
    first = len(workers[0].requests)
    later = second * 2**20 // 10**9 * TICK
    assert len(run) == sum(len(log.output_tokens) for log in logs)
    assert run.requests["id"].tolist() == list(range(len(run)))
    np.testing.assert_array_equal(run.requests["arrival"][first:], workers[1].requests["arrival"] + later)
    (lane,) = run.lanes
    assert len(lane) * BATCH_ROW.itemsize == sum(len(log.journal.rows) for log in logs)
    assert (np.diff(lane["start"]) > 0).all()
    assert (lane["flops"] > 0).all()
    assert run.meta == {"torch": "2", "wall_seconds": run.horizon, "worker_restarts": 1}
    generated = run.requests["generated_tokens"]
    stays = run.spans.columns["leave"] - run.spans.columns["join"]
    of_decodes = np.bincount(run.spans.columns["request"], stays, len(run))
    assert (of_decodes <= generated).all()  # the first token of each admission comes from prefill
    gone = (run.column("status") == "aborted").sum()  # the last token of each may not count
    assert 0 <= (lane["decodes"] * lane["iterations"]).sum() - of_decodes.sum() <= gone
    assert np.isfinite(run.token_gaps.percentiles([0.5])[0]).any()


def test_the_run_folder_is_written_anew_with_all_of_it(tmp_path: Path, plan: PoolPlan) -> None:
    record = tmp_path / "runs" / "mine"
    for zero in (1, 2):
        work(record, zero=zero, policy="orca", turns=30, seed=zero)
    work(tmp_path / "runs" / "mine.2", zero=3, policy="orca", turns=3, seed=3)
    record.mkdir()
    (record / "run.json").write_text('{"format": "triptych run"}', encoding="utf-8")
    (record / TABLE).write_text("{}", encoding="utf-8")
    gather_record(record, plan, DEPLOYMENT, interrupted=True)
    assert (record / TABLE).read_text(encoding="utf-8") == "{}"
    assert len(spool_files(record)) == 2  # not those of mine.2
    run = read_run(record)
    assert (run.producer, run.interrupted, run.meta["worker_restarts"]) == ("serve", True, 1)
    assert len(run.lanes[0]) > 20


def test_what_is_written_at_each_turn_is_small(tmp_path: Path) -> None:
    """Requests are written when something happens to them, not at every token."""
    turns = 200
    kv = KVCache(200, 4)
    scheduler = SCHEDULERS["sarathi"](kv, max_batch=8, max_tokens=64)
    log = SpooledLog(scheduler, tmp_path / "run", 0, {}, "")
    runner: Any = PaperRunner(200, 4)
    engine = Engine(runner, scheduler, log=log, clock=PaperClock())
    sampling = Sampling(max_tokens=turns + 9, temperature=0.0, ignore_eos=True)
    messages = [Submit(str(number), [1], sampling) for number in range(2)]
    for turn in range(turns):
        engine.turn(messages if not turn else ())
        engine.compute()
    (file,) = spool_files(tmp_path / "run")
    assert file.stat().st_size < turns * (BATCH_ROW.itemsize + 32) + 2000
