"""Gaps between tokens: by hand, and against a token-by-token reference."""

from __future__ import annotations

import numpy as np
import pytest
from tests.record import build

from triptych.record import itl
from triptych.record.run import STATUSES, Run
from triptych.record.statistics import counted_distribution, distribution

SHARES = {"itl_p50": 50, "itl_p90": 90, "itl_p99": 99, "itl_max": 100}


def all_gaps(run: Run) -> list[float]:
    values, counts = run.token_gaps.distribution()
    return sorted(np.repeat(values, counts).tolist())


def test_iterations_of_a_row_grow_by_equal_steps() -> None:
    log = build.lane(
        {"start": 10.0, "first": 1.0, "growth": 0.5, "iterations": 3, "decodes": 2},
        {"start": 20.0, "first": 9.0, "prefill_tokens": 5},
        {"start": 30.0, "first": 2.0, "decodes": 1},
    )
    assert log.seconds.tolist() == [1.0 + 1.5 + 2.0, 9.0, 2.0]
    assert log.decode_times().tolist() == [11.0, 12.5, 14.5, 32.0]


def test_a_request_that_decodes_without_a_break() -> None:
    log = build.lane(
        {"start": 2.0, "first": 1.0, "decodes": 1},
        {"start": 5.0, "first": 1.0, "iterations": 2, "decodes": 1},
    )
    row = {"arrival": 0.0, "first_token": 1.0, "end": 7.0, "generated_tokens": 4}
    run = build.run([row], [log], [(0, 0, 0, 3, 1.0)])  # tokens at 1, 3, 6, 7
    assert all_gaps(run) == [1.0, 2.0, 3.0]
    assert [float(run.column(name)[0]) for name in SHARES] == pytest.approx([2.0, 2.8, 2.98, 3.0])


def test_a_preempted_request_has_gaps_across_its_second_prefill() -> None:
    log = build.lane(*[{"start": float(t), "first": 1.0, "decodes": 1} for t in (1, 2, 10, 11)])
    row = {"arrival": 0.0, "first_token": 1.0, "end": 12.0, "generated_tokens": 6, "preemptions": 1}
    run = build.run([row], [log], [(0, 0, 0, 2, 1.0), (0, 0, 2, 4, 9.0)])
    assert all_gaps(run) == [1.0, 1.0, 1.0, 2.0, 6.0]  # tokens at 1, 2, 3, 9, 11, 12: 9 from prefill
    assert run.column("itl_max").tolist() == [6.0]


def test_the_last_token_may_come_from_the_second_prefill() -> None:
    log = build.lane({"start": 1.0, "first": 1.0, "decodes": 1})
    row = {"arrival": 0.0, "first_token": 1.0, "end": 7.0, "generated_tokens": 3, "preemptions": 1}
    run = build.run([row], [log], [(0, 0, 0, 1, 1.0)])
    assert all_gaps(run) == [1.0, 5.0]


def test_a_request_that_was_given_up_has_no_gap_after_its_last_token() -> None:
    log = build.lane({"start": 1.0, "first": 1.0, "decodes": 1})
    row = {"arrival": 0.0, "first_token": 1.0, "end": 7.0, "generated_tokens": 2, "status": "aborted"}
    run = build.run([row], [log], [(0, 0, 0, 1, 1.0)])
    assert all_gaps(run) == [1.0]


def test_requests_without_gaps_have_no_percentiles() -> None:
    row = {"arrival": 0.0, "first_token": 1.0, "end": 1.0, "generated_tokens": 1}
    run = build.run([row, row], [], [])
    assert np.isnan(run.column("itl_p99")).all()
    assert counted_distribution(*run.token_gaps.distribution()).count == 0


def random_run(seed: int, requests: int) -> tuple[Run, list[list[float]]]:
    """A run over two lanes with preemptions, and the token times of each request."""
    rng = np.random.default_rng(seed)
    logs, ends = [], []
    for number in range(2):
        lengths = rng.integers(1, 9, 60)
        rows, times, now = [], [], rng.random()
        for length in lengths:
            first, growth = rng.random(), rng.random() / 100
            decodes = int(rng.random() < 0.8)
            row = {"start": now, "first": first, "growth": growth, "decodes": decodes}
            rows.append({**row, "iterations": int(length) if decodes else 1})
            for step in range(length if decodes else 1):
                now += first + step * growth
                if decodes:
                    times.append(now)
            now += rng.random() * (rng.random() < 0.3)
        logs.append(build.lane(*rows, number=number))
        ends.append(times)
    rows, tokens, stays = [], [], []
    for request in range(requests):
        lane, step = int(rng.integers(2)), int(rng.integers(0, 100))
        mine: list[float] = []
        for _ in range(rng.integers(1, 4)):
            stop = min(step + int(rng.integers(0, 40)), len(ends[lane]))
            before = ends[lane][step] - rng.random() / 2
            before = max(before, mine[-1] + 1e-3) if mine else before
            if step < stop and before >= ends[lane][step]:
                break
            stays.append((request, lane, step, stop, before))
            mine += [before, *ends[lane][step:stop]]
            step = stop + 3
            if step >= len(ends[lane]):
                break
        rows.append({"arrival": 0.0, "first_token": mine[0], "end": mine[-1], "generated_tokens": len(mine)})
        tokens.append(mine)
    order = rng.permutation(len(stays))  # requests interleave; each one's own spans stay in order
    by_request = sorted(range(len(stays)), key=lambda i: (stays[i][4], order[i]))
    return build.run(rows, logs, [stays[i] for i in by_request]), tokens


@pytest.mark.parametrize("chunk", [1, 100, 1 << 18])
def test_percentiles_are_those_of_every_token(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(itl, "_CHUNK", chunk)
    run, tokens = random_run(seed=3, requests=150)
    gaps = [np.diff(times) for times in tokens]
    for name, percent in SHARES.items():
        expected = [np.percentile(each, percent) if len(each) else np.nan for each in gaps]
        np.testing.assert_allclose(run.column(name), expected, rtol=0, atol=2e-9)


def test_the_distribution_over_all_tokens_is_exact() -> None:
    run, tokens = random_run(seed=4, requests=150)
    every = np.concatenate([np.diff(times) for times in tokens])
    ours, reference = counted_distribution(*run.token_gaps.distribution()), distribution(every)
    assert ours.count == reference.count
    for statistic in ("mean", "p50", "p90", "p95", "p99", "p99.9"):
        assert ours.at(statistic) == pytest.approx(reference.at(statistic), rel=1e-9)


def test_gaps_of_a_finished_request_add_up_to_its_decode_time() -> None:
    run = build.split_run()
    values, counts = run.token_gaps.distribution()
    tokens = run.requests["generated_tokens"]
    assert counts.sum() == (tokens - 1).sum()
    assert values @ counts == (run.requests["end"] - run.requests["first_token"]).sum()
    assert set(run.requests["status"]) == {STATUSES.index("finished")}
