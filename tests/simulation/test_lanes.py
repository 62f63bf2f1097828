"""Lanes worked by hand: where an arrival cuts a run, who is batched with whom, and what a poke may not miss.

All times are sums of halves and whole numbers, so they are exact, and ties are meant.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf, isnan, nan

import numpy as np
import pytest

from triptych.policy import Batch, Phase
from triptych.record.run import STATUSES
from triptych.simulation.lane import Lane
from triptych.simulation.simulator import Simulator, Way

from . import stubs

ONE_SECOND = stubs.Takes()
"""Every iteration takes a second."""


def growing(batch: Batch) -> stubs.Line:
    """A prompt takes 1 s; decode iterations 1, 1.5, 2, ... s, as long as they are the same run."""
    return (1.0, 0.5, stubs.FOREVER) if batch.decodes else (1.0, 0.0, 1)


@pytest.fixture(params=[True, False], ids=["jump", "step"])
def jump(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def boundaries(made: Simulator) -> list[float]:
    """Ends of all iterations of the first lane, from its log."""
    ends = []
    for row in stubs.batches(made):
        end = row["start"]
        for iteration in range(row["iterations"]):
            end += row["first"] + iteration * row["growth"]
            ends.append(float(end))
    return ends


def test_an_undisturbed_request_is_two_runs() -> None:
    """The prompt yields the first of ten tokens; the other nine are one run."""
    made = stubs.simulator(stubs.requests([0.5], 4, 10), ONE_SECOND)
    made.run()
    assert stubs.starts_and_iterations(made) == [(0.5, 1), (1.5, 9)]
    assert made.recorder.end[0] == 10.5


def test_without_jumps_every_iteration_is_a_row() -> None:
    made = stubs.simulator(stubs.requests([0.5], 4, 10), ONE_SECOND, jump=False)
    made.run()
    assert stubs.starts_and_iterations(made) == [(0.5 + i, 1) for i in range(10)]


def test_an_arrival_cuts_the_run_at_the_coming_boundary() -> None:
    """It comes at 3.5, in the third decode iteration (3 to 4): its prompt is computed from 4 on."""
    made = stubs.simulator(stubs.requests([0.0, 3.5], 4, [10, 2]), ONE_SECOND)
    made.run()
    assert stubs.starts_and_iterations(made) == [(0.0, 1), (1.0, 3), (4.0, 1), (5.0, 1), (6.0, 4)]
    assert list(made.recorder.prefill_start) == [0.0, 4.0]
    assert list(made.recorder.end) == [10.0, 6.0]


def test_with_lookahead_an_arrival_is_seen_a_batch_later(jump: bool) -> None:
    """It comes at 3.5: the batch that begins at 4 was formed at 3, so its prompt is computed from 5 on."""
    traffic = stubs.requests([0.0, 3.5], 4, [10, 2])
    made = stubs.simulator(traffic, ONE_SECOND, lookahead=True, jump=jump)
    made.run()
    assert list(made.recorder.prefill_start) == [0.0, 5.0]
    assert list(made.recorder.end) == [10.0, 7.0]


def test_with_lookahead_an_idle_lane_begins_at_once() -> None:
    made = stubs.simulator(stubs.requests([0.0, 5.5], 4, 2), ONE_SECOND, lookahead=True)
    made.run()
    assert list(made.recorder.prefill_start) == [0.0, 5.5]


def test_who_gives_up_before_it_was_seen_is_gone() -> None:
    """It comes at 3.5 and gives up at 3.75, before the scheduler knows of it."""
    traffic = stubs.requests([0.0, 3.5], 4, [10, 2], patience=[inf, 0.25])
    made = stubs.simulator(traffic, ONE_SECOND, lookahead=True)
    made.run()
    assert list(made.recorder.end) == [10.0, 3.75]


def test_iterations_that_grow_are_cut_where_they_end() -> None:
    """Decode iterations end at 2, 3.5, 5.5, 8: an arrival at 3.75 waits until 5.5."""
    made = stubs.simulator(stubs.requests([0.0, 3.75], 4, [10, 1]), stubs.Takes(growing))
    made.run()
    assert stubs.starts_and_iterations(made)[:3] == [(0.0, 1), (1.0, 3), (5.5, 1)]
    assert boundaries(made)[:5] == [1.0, 2.0, 3.5, 5.5, 6.5]


@pytest.mark.parametrize(("arrival", "boundary"), [(0.25, 1.0), (1.25, 2.0), (9.25, 10.0)])
def test_an_arrival_in_the_prompt_the_first_or_the_last_iteration(arrival: float, boundary: float) -> None:
    made = stubs.simulator(stubs.requests([0.0, arrival], 4, [10, 1]), ONE_SECOND)
    made.run()
    assert list(made.recorder.end) == [10.0, boundary + 1.0]


def test_an_arrival_on_a_boundary_is_in_the_next_iteration(jump: bool) -> None:
    made = stubs.simulator(stubs.requests([0.0, 3.0], 4, [10, 1]), ONE_SECOND, jump=jump)
    made.run()
    assert made.recorder.prefill_start[1] == 3.0


def test_a_second_arrival_in_the_same_iteration_cuts_nothing_more(jump: bool) -> None:
    made = stubs.simulator(stubs.requests([0.0, 3.25, 3.5, 3.75], 4, [10, 1, 1, 1]), ONE_SECOND, jump=jump)
    made.run()
    assert list(made.recorder.prefill_start) == [0.0, 4.0, 4.0, 4.0]


def test_arrivals_at_the_same_time_are_batched_together(jump: bool) -> None:
    made = stubs.simulator(stubs.requests([2.0] * 3, [4, 5, 6], 1), ONE_SECOND, jump=jump)
    made.run()
    log = stubs.batches(made)
    assert log["start"].tolist() == [2.0]
    assert log["prefill_tokens"].tolist() == [15]


def test_the_first_of_a_closed_loop_are_batched_together() -> None:
    made = stubs.simulator(stubs.closed_loop(3, [4, 5, 6, 7], [1, 1, 2, 1]), ONE_SECOND)
    made.run()
    assert stubs.batches(made)["prefill_tokens"].tolist() == [15, 7]
    assert list(made.recorder.arrival) == [0.0, 0.0, 0.0, 1.0]


def test_a_closed_loop_replaces_who_ends(jump: bool) -> None:
    """Two users; the third and the fourth request come when the first and the second have ended."""
    made = stubs.simulator(stubs.closed_loop(2, [4] * 4, [2, 4, 2, 2]), ONE_SECOND, jump=jump)
    made.run()
    assert list(made.recorder.arrival) == [0.0, 0.0, 2.0, 4.0]
    assert list(made.recorder.end) == [2.0, 4.0, 4.0, 6.0]


def test_a_closed_loop_passes_over_who_can_never_be_served() -> None:
    made = stubs.simulator(stubs.closed_loop(1, [4, 100, 4], [1, 1, 1]), ONE_SECOND, blocks=1)
    made.run()
    assert list(made.recorder.arrival) == [0.0, 1.0, 1.0]
    assert list(made.recorder.end) == [1.0, 1.0, 2.0]


def test_who_is_due_while_as_many_as_may_be_are_in_flight_comes_when_one_ends(jump: bool) -> None:
    """Two at once: the third is due at 1 and comes at 3, the fifth is due when there is room."""
    due = replace(stubs.requests([0.0, 0.0, 1.0, 1.0, 9.5], 4, [3, 5, 2, 1, 1]), concurrency=2)
    made = stubs.simulator(due, ONE_SECOND, jump=jump)
    made.run()
    assert list(made.recorder.arrival) == [0.0, 0.0, 3.0, 5.0, 9.5]
    assert list(made.recorder.end) == [3.0, 5.0, 5.0, 6.0, 10.5]


def test_who_gives_up_goes_at_the_boundary(jump: bool) -> None:
    """Patience ends at 3.5, and so does the request; the token that is computed until 4 does not count."""
    made = stubs.simulator(
        stubs.requests([0.0, 0.0], 4, [10, 10], patience=[3.5, inf]), ONE_SECOND, jump=jump
    )
    made.run()
    assert list(made.recorder.end) == [3.5, 10.0]
    assert list(made.recorder.generated_tokens) == [3, 10]
    log = stubs.batches(made)
    assert int((log["decodes"] * log["iterations"]).sum()) == 3 + 9, "its memory is freed at 4"


def test_who_gives_up_in_the_queue_never_runs(jump: bool) -> None:
    made = stubs.simulator(
        stubs.requests([0.0, 0.5], 4, 4, patience=[inf, 1.0]), ONE_SECOND, max_batch=1, jump=jump
    )
    made.run()
    assert made.recorder.end[1] == 1.5
    assert made.recorder.generated_tokens[1] == 0
    assert not made.recorder.prefill_start[1] >= 0


@pytest.mark.parametrize(("patience", "tokens"), [(0.5, 0), (3.5, 3), (4.5, 4)])
def test_who_gives_up_while_the_last_token_is_computed_has_not_finished(
    jump: bool, patience: float, tokens: int
) -> None:
    """Its four tokens come at 1, 2, 3 and 4."""
    made = stubs.simulator(stubs.requests([0.0], 4, 4, patience=[patience]), ONE_SECOND, jump=jump)
    made.run()
    recorder = made.recorder
    assert recorder.generated_tokens[0] == tokens
    assert recorder.end[0] == min(patience, 4.0)
    assert STATUSES[recorder.status[0]] == ("finished" if tokens == 4 else "timed_out")
    assert (recorder.first_token[0] == 1.0) == (tokens > 0)
    assert made.done == 1


def test_who_gives_up_makes_room_for_the_next_user_at_once(jump: bool) -> None:
    """The first user has waited for 2.5 s when it comes back; its first request is dropped at 3."""
    traffic = replace(stubs.closed_loop(1, [4, 4], [9, 1]), patience=np.array([2.5, inf]))
    made = stubs.simulator(traffic, ONE_SECOND, max_batch=1, jump=jump)
    made.run()
    assert list(made.recorder.arrival) == [0.0, 2.5]
    assert list(made.recorder.end) == [2.5, 4.0]
    assert made.done == 2


def test_a_progression_holds_no_further_than_the_cost_says() -> None:
    made = stubs.simulator(
        stubs.requests([0.0], 4, 10), stubs.Takes(lambda batch: (1.0, 0.0, 4 if batch.decodes else 1))
    )
    made.run()
    assert stubs.starts_and_iterations(made) == [(0.0, 1), (1.0, 4), (5.0, 4), (9.0, 1)]


# Between instances -----------------------------------------------------------------------------------

PREFILL_THEN_DECODE = ((Phase.PREFILL,), (Phase.DECODE,))
TEN_BYTES = Way(out=20.0, into=20.0, latency=0.0, bytes_per_token=(0.0, 0.0, 10.0))
"""A token is sent in half a second."""


def split(jump: bool, kind: type[Simulator] = Simulator) -> Simulator:
    """Two requests over a prefill and a decode instance: prompts of 1 token at 0, of 4 tokens at 0.5."""
    return stubs.simulator(
        stubs.requests([0.0, 0.5], [1, 4], [6, 3]),
        ONE_SECOND,
        pools=PREFILL_THEN_DECODE,
        way=TEN_BYTES,
        kind=kind,
        jump=jump,
    )


def test_kv_is_sent_and_joins_at_a_boundary(jump: bool) -> None:
    """KV is sent once a boundary of the decode instance has set memory aside for it, two tokens a second.

    Request 0 is prefilled 0..1, sent 1..1.5 and decoded from 1.5 on; request 1 is prefilled 1..2, sent from
    2.5, the next boundary, to 4.5, which is a boundary again, and decoded from there.
    """
    made = split(jump)
    made.run()
    recorder = made.recorder
    assert list(recorder.first_token) == [1.0, 2.0]
    assert list(recorder.decode_ready) == [1.5, 4.5]
    assert list(recorder.end) == [6.5, 6.5]
    assert list(recorder.transfer_seconds) == [0.5, 2.0]


def test_who_gives_up_under_way_is_dropped_where_it_lands(jump: bool) -> None:
    """Prefilled 0..1 and sent 1..3; patience ends at 2, and memory on both sides is freed at 3."""
    made = stubs.simulator(
        stubs.requests([0.0], 4, 9, patience=[2.0]),
        ONE_SECOND,
        pools=PREFILL_THEN_DECODE,
        way=TEN_BYTES,
        jump=jump,
    )
    made.run()
    assert list(made.recorder.end) == [2.0]
    assert isnan(made.recorder.decode_ready[0])
    assert list(made.recorder.generated_tokens) == [1]
    assert len(stubs.batches(made, lane=1)) == 0
    assert all(lane.scheduler.kv.used == 0 for instance in made.instances for lane in instance.lanes)


class Meddling(Simulator):
    """Adds a request to the decode instance at the very moment at which that forms a batch."""

    beside_a_batch = False
    """Whether to wait until there is something to run."""
    added_at = nan

    def serve(self, lane: Lane, now: float) -> None:
        super().serve(lane, now)
        forms_as_awaited = (lane.batch is not None) == self.beside_a_batch
        if lane.instance == 1 and forms_as_awaited and not self.added_at >= 0:
            self.added_at = now
            request = self.traffic.request(0)
            request.phase = Phase.DECODE
            request.context_tokens = request.generated_tokens = 1
            lane.scheduler.kv.take(request, request.longest_context)
            lane.scheduler.landed[request] = None
            self._place[request] = lane
            lane.runner.poke(now)


class MeddlingLater(Meddling):
    """Adds it when there is something to run."""

    beside_a_batch = True


def test_a_poke_while_no_batch_is_formed_is_not_lost() -> None:
    """At 1 the decode instance has nothing to run; what is put there while it says so is run at once."""
    made = split(jump=True, kind=Meddling)
    made.run()
    assert isinstance(made, Meddling)
    assert made.added_at == 1.0
    assert stubs.starts_and_iterations(made, lane=1)[0][0] == 1.0


def test_a_poke_while_a_batch_is_formed_keeps_it_to_one_iteration() -> None:
    """At 2.5 the decode instance sets out on the tokens left of one request; the other is in from 3.5 on."""
    made = split(jump=True, kind=MeddlingLater)
    made.run()
    assert isinstance(made, Meddling)
    assert made.added_at == 2.5
    log = stubs.batches(made, lane=1)
    assert list(zip(log["start"], log["iterations"], log["decodes"], strict=True))[1:3] == [
        (2.5, 1, 1),
        (3.5, 1, 2),
    ]


def test_what_a_front_end_takes_is_between_arrival_and_batch() -> None:
    """Sent at 0.5, seen at 0.75: the record has the client's times."""
    made = stubs.simulator(stubs.requests([0.5], 4, 2), ONE_SECOND, delay=0.25)
    made.run()
    assert made.recorder.arrival[0] == 0.5
    assert made.recorder.prefill_start[0] == 0.75
    assert made.recorder.end[0] == 2.75


def test_in_a_closed_loop_every_request_passes_the_front_end() -> None:
    made = stubs.simulator(stubs.closed_loop(1, [4, 4], [1, 1]), ONE_SECOND, delay=0.25)
    made.run()
    assert list(made.recorder.arrival) == [0.0, 1.25]
    assert list(made.recorder.end) == [1.25, 2.5]


def test_who_gives_up_in_the_front_end_never_reaches_a_scheduler() -> None:
    traffic = stubs.requests([0.0, 0.5], 4, [2, 2], patience=[inf, 0.125])
    made = stubs.simulator(traffic, ONE_SECOND, delay=0.25)
    made.run()
    assert made.recorder.end[1] == 0.625
    assert made.recorder.end[0] == 2.25
    assert made.done == 2
