"""What is said of records whose errors would mislead."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tests.record.build import NEVER, run

from triptych.catalog.machine import cores
from triptych.profiler import others
from triptych.profiler.others import Others
from triptych.record import Run
from triptych.report.compare import compare
from triptych.validation.notes import kernel_notes, left_notes, machine_notes, run_notes

ROW = {"arrival": 0, "first_token": 1, "end": 2, "generated_tokens": 2, "prompt_tokens": 100}
LOST = {"status": "aborted", "end": NEVER}


def measured(*rows: dict[str, Any], client: float = 0.1, errors: dict[str, int] | None = None) -> Run:
    return run(rows, meta={"errors": errors or {}, "client_cpu_share": client})


def notes(predicted: Run, *runs: Run) -> list[str]:
    pairs = [compare(predicted, one) for one in runs]
    return list(run_notes(runs, [predicted] * len(runs), pairs))


def test_there_is_nothing_to_say_of_equal_records() -> None:
    assert notes(run([ROW, ROW]), measured(ROW, ROW)) == []


def test_failed_requests_are_counted_over_repetitions_with_the_reason() -> None:
    failed = measured(ROW, ROW, errors={"status 503: full": 3})
    assert "6 x status 503: full" in notes(run([ROW, ROW]), failed, failed)


def test_requests_that_finished_on_one_side_are_counted() -> None:
    assert notes(run([ROW, ROW]), measured(ROW, {**ROW, **LOST})) == [
        "1 request finished only as predicted: left out of latencies"
    ]
    assert notes(run([ROW, {**ROW, **LOST}]), measured(ROW, ROW)) == [
        "1 request finished only as measured: left out of latencies"
    ]


def test_a_busy_client_is_mentioned() -> None:
    assert "the client was near its limit" in notes(run([ROW]), measured(ROW, client=0.9))[0]


def test_another_share_from_the_prefix_cache_is_mentioned() -> None:
    hit = {**ROW, "cached_tokens": 48}
    assert notes(run([ROW, ROW]), measured(ROW, hit)) == [
        "the prefix cache held 0% of prompt tokens as predicted, 24% as measured"
    ]


def test_overload_is_mentioned_with_who_sees_it() -> None:
    """A request a second, which has a second more to wait each time."""
    rows = [
        {
            **ROW,
            "arrival": n,
            "prefill_ready": n,
            "prefill_start": 2 * n,
            "first_token": 2 * n,
            "end": 2 * n + 1,
        }
        for n in range(200)
    ]
    even = [{**ROW, "arrival": n, "first_token": n + 0.1, "end": n + 0.2} for n in range(200)]
    (note,) = notes(run(rows, horizon=400), measured(*even))
    assert note.startswith("overloaded as predicted:")


class TestOthers:
    def test_a_machine_that_others_keep_busy_is_mentioned(self) -> None:
        assert list(machine_notes(0.05 * cores())) == list(machine_notes(None)) == []
        (note,) = machine_notes(0.6 * cores())
        assert note.startswith("other programs took")

    def test_what_this_process_does_is_not_of_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        machine = 100.0
        monkeypatch.setattr(others, "busy_seconds", lambda: machine + others._own_seconds())
        watched = Others()
        end = time.monotonic() + 0.1
        while time.monotonic() < end:
            pass
        assert watched.cores() == pytest.approx(0, abs=0.01)
        machine = 100.05
        seen = watched.cores()
        assert seen is None or 0.2 < seen < 0.6

    def test_a_system_that_does_not_tell_is_no_busy_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(others, "busy_seconds", lambda: None)
        assert Others().cores() is None


def test_what_is_left_of_the_machine_is_said_where_it_is_not_all_of_it() -> None:
    assert list(left_notes([0.97, 0.99])) == []
    (said,) = left_notes([0.5, 0.5])
    assert "had 50% of the cores that they can use" in said
    assert "batches 2.00 times as long" in said


def test_other_kernels_than_those_of_the_profile_are_said() -> None:
    profile = "products in fp32; attention of prompts: flash"
    assert list(kernel_notes(profile, {"products": "fp32", "prompts": "flash"})) == []
    assert list(kernel_notes("", {"products": "bf16"})) == []
    (said,) = kernel_notes(profile, {"products": "bf16", "prompts": "flash"})
    assert said.startswith("the server computed with products bf16, prompts flash, and the profile was")
