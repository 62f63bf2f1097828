"""From repeated passes to rows, from rows to the sum, and the file that keeps what is finished."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.profiler.job import Job, case_from_plain, case_to_plain, key
from triptych.profiler.journal import Journal
from triptych.profiler.predict import Sum
from triptych.profiler.rows import rows_of, series_of
from triptych.profiler.sizes import AnyCase, Case, HostCase, ImageCase, Limits
from triptych.profiler.statistics import Row, row, speeds, undisturbed

LIMITS = Limits(tokens=64, batch=4, context=64, kv=1024, patches=64)
JOB = Job("m", "cpu", "fp32", (1,), LIMITS, quick=True, repeats=3, checks=2)


def test_a_pass_that_was_disturbed_does_not_count() -> None:
    assert undisturbed(np.array([1.0, 1.01, 0.99, 1.0, 5.0])).tolist() == [True, True, True, True, False]


def test_passes_that_are_alike_all_count() -> None:
    assert undisturbed(np.array([1.0, 1.01, 0.99, 1.02])).all()


@given(st.lists(st.floats(1e-6, 10.0), min_size=1, max_size=40))
def test_three_quarters_count_in_any_case(seconds: list[float]) -> None:
    assert undisturbed(np.array(seconds)).sum() >= 0.75 * len(seconds)


def test_a_row_says_how_steady_it_is() -> None:
    steady = row("qkv", np.array([1.0, 1.02, 0.98]), {"units": 4})
    assert steady["seconds"] == pytest.approx(1.0)
    assert (steady["units"], steady["repeats"], steady["unsteady"]) == (4, 3, False)
    assert row("qkv", np.array([1.0, 2.0, 1.5]), {})["unsteady"]


def test_what_a_machine_does_to_all_batches_is_told_from_what_they_take() -> None:
    chance = np.random.default_rng(0)
    own = chance.uniform(1.0, 100.0, 30)
    names, seconds, slow = [], [], []
    for place in range(240):
        batch = int(chance.integers(30))
        slow.append(1.5 if 60 <= place < 130 else 1.0)
        names.append(str(batch))
        seconds.append(own[batch] * slow[-1] * chance.normal(1.0, 0.02))
    found = speeds(names, seconds)
    expected = np.array(slow) / np.mean(slow)
    away_from_edges = [place for place in range(240) if min(abs(place - 60), abs(place - 130)) > 4]
    assert found[away_from_edges] == pytest.approx(expected[away_from_edges], rel=0.05)
    assert found.mean() == pytest.approx(1.0)


def test_a_steady_machine_changes_nothing() -> None:
    assert speeds(["a", "b"] * 10, [1.0, 7.0] * 10) == pytest.approx(np.ones(20))


def test_of_few_turns_nothing_is_told() -> None:
    assert speeds(["a", "b", "a", "b"], [1.0, 7.0, 2.0, 14.0]).tolist() == [1.0] * 4


def turn(case: AnyCase, *seconds: float, waited: float = 0.0, **about: object) -> dict[str, object]:
    """Passes in which everything took as long."""
    return {
        "name": case.name,
        "passes": [{"qkv": value, "head": value} for value in seconds],
        "whole": list(seconds),
        "waited": [waited] * len(seconds),
        "about": about,
    }


def test_passes_that_waited_for_a_processor_do_not_count() -> None:
    case = Case(((16, 0),))
    series = series_of([turn(case, 1.0, 1.0), turn(case, 3.0, 3.0, waited=0.6)], 2)[case.name]
    assert series.whole.tolist() == [1.0, 1.0]
    assert series.steady


def test_where_all_waited_those_count_that_waited_least() -> None:
    case = Case(((16, 0),))
    turns = [turn(case, 3.0, 3.0, waited=0.6), turn(case, 2.0, 2.0, waited=0.2)]
    series = series_of(turns, 2)[case.name]
    assert series.whole.tolist() == [2.0, 2.0]  # threads wait without being missed: nothing is taken out
    assert series.operators()["qkv"].tolist() == [2.0, 2.0]
    assert not series.steady


def test_rows_say_how_large_a_run_was() -> None:
    prompt, decode = Case(((16, 8),)), Case(decodes=(10, 30))
    found = {}
    for case in (prompt, decode):
        (each,) = series_of([turn(case, 1.0, touched=3)], 1).values()
        found[case] = {row["operator"]: row for row in rows_of(case, each)}
    assert found[prompt]["qkv"]["units"] == 16 and found[prompt]["head"]["units"] == 1
    assert found[decode]["qkv"]["units"] == 2 and found[decode]["head"]["units"] == 2


def test_a_batch_that_checks_is_one_row() -> None:
    case = Case(((16, 8), (4, 0)), (10, 30), check=True)
    (each,) = series_of([turn(case, 1.0, 1.2)], 1).values()
    (only,) = rows_of(case, each)
    assert only["operator"] == "forward"
    assert [only[name] for name in ("units", "history", "decodes", "decode_kv")] == [20, 8, 2, 20]
    assert only["seconds"] == pytest.approx(1.1)


def rows_of_lines() -> list[Row]:
    """Times that are straight lines in every size, so that a sum of lines is exact."""
    rows: list[Row] = [{"operator": "qkv", "units": units, "seconds": 2.0 + units} for units in (1, 8, 64)]
    rows += [{"operator": "head", "units": units, "seconds": 10.0 * units} for units in (1, 8)]
    for tokens in (2, 64):
        for history in (0, 100):
            seconds = tokens + 0.5 * history
            rows.append(
                {"operator": "prefill attention", "units": tokens, "history": history, "seconds": seconds}
            )
    for decodes in (1, 8):
        for kv in (16, 1000):
            seconds = 3.0 * decodes + 0.1 * kv
            rows.append(
                {"operator": "decode attention", "decodes": decodes, "decode_kv": kv, "seconds": seconds}
            )
    rows += [{"operator": "vision qkv", "units": units, "seconds": 3 + units} for units in (16, 256)]
    rows += [{"operator": "vision full attention", "units": n, "seconds": n**2} for n in (32, 64)]
    rows += [
        {"operator": name, "units": 1, "decodes": 1, "seconds": 1e9}
        for name in ("iteration", "scheduling", "input building", "sampler")
    ]
    return rows


TIMES = {
    "vision qkv": 2.0,
    "vision full attention": 1.0,
    "qkv": 2.0,
    "head": 1.0,
    "prefill attention": 2.0,
    "decode attention": 2.0,
}


def test_a_pass_is_the_sum_of_its_operators() -> None:
    case = Case(((10, 20), (6, 0)), (100, 300))
    tokens = 2 * (2.0 + 18)
    attention = 2 * ((10 + 10.0) + 6.0 + (3.0 * 2 + 0.1 * 200))
    assert Sum(rows_of_lines(), TIMES).of(case) == ("forward", pytest.approx(tokens + 10.0 * 4 + attention))


def test_images_are_encoded_together_and_attend_alone() -> None:
    expected = 2 * (3 + 96) + 32**2 + 64**2
    case = ImageCase(((4, 8), (8, 8)))
    assert Sum(rows_of_lines(), TIMES).of(case) == ("vision forward", pytest.approx(expected))


def test_experts_are_those_that_random_tokens_go_to() -> None:
    rows = rows_of_lines()
    for units in (1, 64):
        rows.append({"operator": "experts", "units": units, "touched": 2, "seconds": 1.0})
        rows.append({"operator": "experts", "units": units, "touched": 9, "seconds": 7.0})
    without, with_experts = (Sum(each, {**TIMES, "experts": 1.0}) for each in (rows_of_lines(), rows))
    case = Case(decodes=(16, 16))
    assert with_experts.of(case)[1] - without.of(case)[1] == pytest.approx(7.0)


def test_a_job_and_a_batch_travel_as_text() -> None:
    assert Job.from_json(JOB.to_json()) == JOB
    for case in (Case(((4, 8),), (3, 5), experts=2), ImageCase(((2, 4),), check=True), HostCase(prompt=7)):
        assert case_from_plain(json.loads(json.dumps(case_to_plain(case)))) == case


def test_what_is_finished_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "partial.jsonl"
    journal = Journal(path, JOB)
    for _ in range(2):
        journal.add({"kind": "turn", "tensor": 1, "name": "text 16after0"})
    with path.open("a", encoding="utf-8") as file:
        file.write('{"kind": "rows", "na')  # cut off
    again = Journal(path, JOB)
    again.add({"kind": "rows", "name": "copies", "rows": []})
    assert Journal(path, JOB).done == {key(1, "text 16after0"): 2, "copies": 1}


def test_what_was_measured_with_other_libraries_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "partial.jsonl"
    Journal(path, JOB).add({"kind": "rows", "name": "copies", "rows": []})
    assert Journal(path, JOB).done
    monkeypatch.setattr("triptych.profiler.journal.libraries", lambda: {"torch": "0.1"})
    assert Journal(path, JOB).done == {}


def test_what_was_measured_of_something_else_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "partial.jsonl"
    Journal(path, JOB).add({"kind": "rows", "name": "copies", "rows": []})
    other = Job("m", "cpu", "bf16", (1,), LIMITS, quick=True, repeats=3, checks=2)
    assert Journal(path, other).done == {}
