"""Lanes that share an instance: pipeline stages worked by hand, and data ranks that go in step."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from triptych.policy import Batch
from triptych.record.run import STATUSES
from triptych.simulation.simulator import Simulator
from triptych.workload import Requests

from . import stubs

LONG = 100
"""Tokens of a prompt that takes three times as long as everything else."""


def seconds(batch: Batch) -> float:
    return 3.0 if batch.prefill_tokens >= LONG else 1.0


def pipeline(traffic: Requests, *, jump: bool = True) -> Simulator:
    """Two stages of equal length, and so two lanes."""
    cost = stubs.Takes(stages=lambda batch: [seconds(batch)] * 2)
    made = stubs.simulator(traffic, cost, stages=2, jump=jump)
    made.run()
    return made


def in_step(traffic: Requests, *, jump: bool = True, ranks: int = 2, lookahead: bool = False) -> Simulator:
    made = stubs.simulator(traffic, stubs.Takes(seconds), ranks=ranks, jump=jump, lookahead=lookahead)
    made.run()
    return made


def ends(made: Simulator, lane: int) -> list[float]:
    log = stubs.batches(made, lane)
    return [float(end) for end in log["start"] + log["first"] * log["iterations"]]


def test_a_lane_alone_waits_for_its_own_token() -> None:
    """A token depends on the one before: each takes both stages, 2 s, though one is always free."""
    made = pipeline(stubs.requests([0.0], 4, 3))
    assert ends(made, 0) == [2.0, 4.0, 6.0]
    assert len(stubs.batches(made, 1)) == 0


def test_two_lanes_fill_both_stages() -> None:
    """Lane 1 enters stage 0 at 1, when lane 0 has left it; from then on a batch leaves every second."""
    made = pipeline(stubs.requests([0.0, 0.0], 4, 3))
    assert ends(made, 0) == [2.0, 4.0, 6.0]
    assert ends(made, 1) == [3.0, 5.0, 7.0]
    assert list(made.recorder.end) == [6.0, 7.0]


def test_requests_stay_on_their_lane_and_new_ones_go_to_the_shorter() -> None:
    """The third comes when lane 0 has one request and lane 1 one: ties go to the first."""
    made = pipeline(stubs.requests([0.0, 0.0, 0.5], 4, [3, 5, 1]))
    assert stubs.batches(made, 0)["prefilling"].tolist() == [1, 1, 0]
    assert stubs.batches(made, 1)["prefilling"].tolist() == [1, 0, 0, 0, 0]


def test_a_long_batch_delays_the_other_lane() -> None:
    """Lane 0 has stage 0 until 3 and stage 1 until 6.

    Lane 1, ready at 0, is let into stage 0 at 3, leaves it at 4, waits for stage 1 until 6 and leaves that
    at 7. Lane 0 is back in stage 0 at 6, and in stage 1 after lane 1.
    """
    made = pipeline(stubs.requests([0.0, 0.0], [LONG, 4], [2, 2]))
    assert ends(made, 0) == [6.0, 8.0]
    assert ends(made, 1) == [7.0, 9.0]


def test_a_long_batch_is_not_delayed_by_a_short_one_before_it() -> None:
    made = pipeline(stubs.requests([0.0, 0.0], [4, LONG], [1, 1]))
    assert list(made.recorder.end) == [2.0, 7.0]


def test_unequal_stages_run_at_the_pace_of_the_slowest() -> None:
    cost = stubs.Takes(stages=lambda batch: [1.0, 2.0])
    made = stubs.simulator(stubs.requests([0.0, 0.0], 4, 4), cost, stages=2)
    made.run()
    assert ends(made, 0) == [3.0, 7.0, 11.0, 15.0]
    assert ends(made, 1) == [5.0, 9.0, 13.0, 17.0]


@pytest.mark.parametrize("jump", [True, False])
def test_in_step_the_slowest_rank_sets_the_time(jump: bool) -> None:
    """Rank 0 decodes while rank 1 computes a long prompt from 2 to 5: the token of rank 0 comes at 5 too."""
    made = in_step(stubs.requests([0.0, 1.5], [4, LONG], [4, 2]), jump=jump)
    assert list(made.recorder.first_token) == [1.0, 5.0]
    assert list(made.recorder.end) == [6.0, 6.0]
    assert stubs.batches(made, 0)["first"].tolist() == [1.0, 1.0, 3.0, 1.0]


def test_in_step_all_begin_and_end_together() -> None:
    made = in_step(stubs.requests([0.0, 0.0], 4, [4, 8]))
    assert stubs.starts_and_iterations(made, 0) == [(0.0, 1), (1.0, 3)]
    assert stubs.starts_and_iterations(made, 1) == [(0.0, 1), (1.0, 3), (4.0, 4)]


def test_in_step_an_arrival_at_one_rank_cuts_the_run_of_all() -> None:
    made = in_step(stubs.requests([0.0, 0.0, 2.5], 4, [8, 8, 1]))
    assert stubs.starts_and_iterations(made, 0) == [(0.0, 1), (1.0, 2), (3.0, 1), (4.0, 4)]
    assert stubs.starts_and_iterations(made, 1) == [(0.0, 1), (1.0, 2), (3.0, 1), (4.0, 4)]


def test_in_step_idle_ranks_leave_no_rows() -> None:
    made = in_step(stubs.requests([0.0], 4, 4), ranks=3)
    assert [len(stubs.batches(made, rank)) for rank in range(3)] == [2, 0, 0]


@pytest.mark.parametrize("jump", [True, False])
def test_in_step_who_gives_up_before_its_idle_rank_has_seen_it_is_gone(jump: bool) -> None:
    """It comes to rank 1 at 1.5, which would see it at 2 for the batch that begins at 3."""
    traffic = stubs.requests([0.0, 1.5], 4, [4, 4], patience=[inf, 0.25])
    made = in_step(traffic, jump=jump, lookahead=True)
    assert made.done == 2
    assert list(made.recorder.generated_tokens) == [4, 0]
    assert len(stubs.batches(made, 1)) == 0


def test_in_step_who_has_come_but_was_not_seen_counts_for_its_rank() -> None:
    """The second goes to rank 1 and is not seen there yet when the third comes, which makes it a tie."""
    made = in_step(stubs.requests([0.0, 0.25, 0.5], 4, [8, 2, 3]), lookahead=True)
    assert [int(stubs.batches(made, rank)["prefilling"].sum()) for rank in range(2)] == [2, 1]


def shared(traffic: Requests, stages: int = 2, **knobs: Any) -> Simulator:
    """Stages of a second each, whose lanes share memory and queue."""
    cost = stubs.Takes(stages=lambda batch: [1.0] * stages)
    made = stubs.simulator(traffic, cost, stages=stages, policy="unified", **knobs)
    made.run()
    lanes = made.instances[0].lanes
    assert all(lane.scheduler.kv is lanes[0].scheduler.kv for lane in lanes)
    assert all(len(lane.scheduler) == 0 and lane.scheduler.kv.used == 0 for lane in lanes)
    return made


def test_the_chunks_of_one_prompt_follow_each_other_through_the_stages() -> None:
    """Three chunks enter the first stage at 0, 1 and 2; the token of the third comes at 4."""
    made = shared(stubs.requests([0.0], 300, 2), max_tokens=100)
    assert list(made.recorder.first_token) == [4.0]
    assert list(made.recorder.end) == [6.0]
    assert stubs.batches(made, 0)["prefill_kv"].tolist() == [100, 300, 0]
    assert stubs.batches(made, 1)["prefill_kv"].tolist() == [200]


def test_lanes_that_share_fill_both_stages_where_one_batch_cannot_hold_all() -> None:
    made = shared(stubs.requests([0.0, 0.0], 4, 3), max_tokens=4, max_batch=2)
    assert list(made.recorder.end) == [6.0, 7.0]
    made = shared(stubs.requests([0.0, 0.0], 4, 3), max_tokens=8)
    assert list(made.recorder.end) == [6.0, 6.0]
    assert len(stubs.batches(made, 1)) == 0


def test_who_comes_while_a_batch_is_under_way_is_seen_at_its_end() -> None:
    made = shared(stubs.requests([0.0, 0.5], 4, [3, 1]))
    assert list(made.recorder.prefill_start) == [0.0, 2.0]
    assert list(made.recorder.end) == [6.0, 4.0]


def test_one_request_may_take_all_of_the_memory_that_lanes_share() -> None:
    made = shared(stubs.requests([0.0], 1500, 100), blocks=100)
    assert STATUSES[made.recorder.status[0]] == "finished"


@pytest.mark.parametrize("stages", [2, 3])
def test_the_latest_is_preempted_across_lanes_and_the_first_never(stages: int) -> None:
    """Each in a lane of its own, and memory for one and a half of them."""
    traffic = stubs.requests([0.0] * stages, 32, 60)
    made = shared(traffic, stages, max_tokens=32, max_batch=8, blocks=9)
    assert list(made.recorder.generated_tokens) == [60] * stages
    assert made.recorder.preemptions[0] == 0
    assert made.recorder.preemptions[1] > 0
    assert made.recorder.end[0] == min(made.recorder.end)


def test_who_gives_up_gets_no_further_chunk_though_one_is_always_under_way() -> None:
    """Chunks are under way from 0 to 2, 1 to 3, 2 to 4; patience ends at 2.5, so the third is the last."""
    made = shared(stubs.requests([0.0], 1000, 2, patience=[2.5]), max_tokens=100)
    assert list(made.recorder.end) == [2.5]
    rows = sum(len(stubs.batches(made, lane)) for lane in range(2))
    assert rows == 3
