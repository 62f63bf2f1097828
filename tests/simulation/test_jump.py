"""Jumping over runs of equal iterations gives what stepping through them gives, to rounding.

Ties are the one exception. Where two events fall on the same instant, the rounding of the sums that led
there decides which comes first, and sums of one iteration at a time round otherwise than closed forms.
So arrivals and lengths are random here, and nothing ties; the cases in which times are exact and ties are
meant stand in test_lanes.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import triptych
from triptych.policy import Batch
from triptych.record import Run
from triptych.record.columns import REQUEST_COLUMNS
from triptych.workload import Requests

from . import stubs
from .worlds import POLICIES, SPLITS, World, worlds

ROUNDING = 1e-9
"""Relative difference of times that rounding explains."""


def assert_same(leapt: Run, stepped: Run) -> None:
    """All that a run records of its requests and its tokens is equal."""
    for name in REQUEST_COLUMNS:
        _assert_same_column(name, leapt.requests[name], stepped.requests[name])
    for one, other in zip(leapt.lanes, stepped.lanes, strict=True):
        np.testing.assert_allclose(one.decode_times(), other.decode_times(), ROUNDING, 1e-12)
        assert one["kv_blocks_last"].max(initial=0) == other["kv_blocks_last"].max(initial=0)
        for name in ("flops", "bytes"):
            assert one[name].sum() == pytest.approx(other[name].sum(), rel=ROUNDING), name
    for name, spans in leapt.spans.columns.items():
        _assert_same_column(name, spans, stepped.spans.columns[name])
    one_gaps, other_gaps = (np.sort(np.repeat(*run.token_gaps.distribution())) for run in (leapt, stepped))
    np.testing.assert_allclose(one_gaps, other_gaps, ROUNDING, 1e-9)
    for name in ("itl_p50", "itl_p90", "itl_p99", "itl_max"):
        np.testing.assert_allclose(leapt.column(name), stepped.column(name), ROUNDING, 2e-9, err_msg=name)
    assert leapt.horizon == pytest.approx(stepped.horizon, rel=ROUNDING)


def _assert_same_column(name: str, leapt: np.ndarray, stepped: np.ndarray) -> None:
    if leapt.dtype.kind == "f":
        np.testing.assert_allclose(leapt, stepped, ROUNDING, 1e-12, err_msg=name)
    else:
        np.testing.assert_array_equal(leapt, stepped, err_msg=name)


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_policy_jumps_as_it_steps(policy: str, data: st.DataObject) -> None:
    world = data.draw(worlds(policy))
    assert_same(world.simulate(), world.simulate(jump=False))


@pytest.mark.parametrize("split", SPLITS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_every_split_jumps_as_it_steps(split: str, data: st.DataObject) -> None:
    """Each pool under a policy of its own."""
    world = data.draw(worlds(split=split))
    assert_same(world.simulate(), world.simulate(jump=False))


def preempting(split: str, policy: str, kv_tokens: int, images: bool) -> World:
    """A world whose decodes run out of memory again and again."""
    memory = {"block_size": 4, "kv_blocks": kv_tokens // 4}
    text = {"scheduler": {"policy": policy, "max_batch": 8, "max_tokens": 64}, **memory}
    pools = {
        "".join(phase[0] for phase in phases): {
            "phases": phases,
            "device": "A10",
            **({"scheduler": {"policy": "encode"}} if phases == ["encode"] else text),
        }
        for phases in SPLITS[split]
    }
    workload: dict[str, Any] = {
        "requests": 60,
        "seed": 5,
        "arrivals": {"kind": "poisson", "rate": 100},
        "prompt": {"kind": "uniform", "low": 1, "high": 60},
        "output": {"kind": "uniform", "low": 30, "high": 120},
    }
    if images:
        workload["images"] = {"share": 0.7, "sizes": [{"width": 112, "height": 84}]}
    return World(split, {"model": "Qwen2.5-VL-3B", "pools": pools}, workload)


@pytest.mark.parametrize("policy", ["vllm", "sarathi", "unified"])
@pytest.mark.parametrize(("split", "images"), [("one pool", False), ("P / D", False), ("E / PD", True)])
def test_memory_that_a_preemption_frees_is_seen_at_the_next_boundary(
    split: str, images: bool, policy: str
) -> None:
    """Who could not be admitted before the preemption may fit after it, whoever was preempted."""
    world = preempting(split, policy, 240, images)
    leapt, stepped = world.simulate(), world.simulate(jump=False)
    assert leapt.requests["preemptions"].sum() > 20
    assert_same(leapt, stepped)
    assert sum(map(len, leapt.lanes)) < 0.8 * sum(map(len, stepped.lanes)), "it does leap"


def test_kv_in_use_is_the_same_whether_a_long_answer_is_leapt_over_or_not() -> None:
    """One request alone: 100 blocks hold its prompt, and as many again are drawn while it decodes."""
    traffic = stubs.requests([0.0], 1600, 1601)
    shares = []
    for jump in (True, False):
        made = stubs.simulator(traffic, stubs.Takes(), policy="vllm", blocks=400, jump=jump)
        made.run()
        log = stubs.batches(made)
        assert log["kv_blocks"][0] == 100, "the blocks of the batch itself count"
        assert log["kv_blocks_last"].max() == 200
        iterations = log["iterations"]
        mean = (log["kv_blocks"] + log["kv_blocks_last"]) / 2
        shares.append((mean * iterations).sum() / iterations.sum())
    assert shares[0] == pytest.approx(shares[1], abs=1)


def test_mean_kv_weighs_longer_iterations_more_whether_leapt_over_or_not() -> None:
    """One long answer on the real cost: its last iterations take longest and hold most."""
    pool = {"phases": ["prefill", "decode"], "device": "A10", "scheduler": {"policy": "vllm"}}
    workload = {
        "requests": 1,
        "arrivals": {"kind": "at-once"},
        "prompt": {"kind": "fixed", "tokens": 100},
        "output": {"kind": "fixed", "tokens": 20_000},
    }
    world = World("one pool", {"model": "Llama-3.1-8B", "pools": {"all": pool}}, workload)
    leapt, stepped = (triptych.summarise(world.simulate(jump=jump)).pools[0].usage for jump in (True, False))
    assert leapt.kv_mean_share == pytest.approx(stepped.kv_mean_share, rel=2e-3)
    assert leapt.kv_peak_share == stepped.kv_peak_share


# A cost whose progressions break ---------------------------------------------------------------------


def rising(width: int, *, cut: bool) -> stubs.Takes:
    """Seconds rise with KV along a line whose slope changes every `width` tokens of it.

    With `cut`, a progression is said to hold up to the end of its line and no further; without, every
    iteration is said to be one of its own.
    """

    def line(batch: Batch) -> stubs.Line:
        piece = batch.decode_kv // width
        slope = (1e-4, 7e-4, 3e-4)[piece % 3]
        seconds = 0.01 + 1e-3 * batch.prefill_tokens + slope * batch.decode_kv
        if not cut or not batch.decodes or batch.chunks:
            return seconds, 0.0, 1
        left = (piece + 1) * width - 1 - batch.decode_kv
        return seconds, slope * batch.decodes, left // batch.decodes + 1

    return stubs.Takes(line)


def random_traffic(seed: int, rate: float) -> Requests:
    rng = np.random.default_rng(seed)
    return stubs.requests(
        np.cumsum(rng.exponential(1 / rate, 30)), rng.integers(1, 60, 30), rng.integers(1, 80, 30)
    )


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=20, deadline=None)
@given(width=st.integers(1, 500), seed=st.integers(0, 1000), rate=st.sampled_from([0.5, 3.0, 30.0]))
def test_where_a_progression_breaks_changes_nothing(policy: str, width: int, seed: int, rate: float) -> None:
    runs = []
    for cut, jump in ((True, True), (True, False), (False, True)):
        made = stubs.simulator(
            random_traffic(seed, rate),
            rising(width, cut=cut),
            instances=2,
            policy=policy,
            blocks=40,
            block_size=4,
            max_batch=6,
            jump=jump,
        )
        made.run()
        runs.append(made)
    for name in ("prefill_start", "first_token", "end", "preemptions", "generated_tokens", "status"):
        leapt, *stepped = (run.recorder.column(name) for run in runs)
        for other in stepped:
            _assert_same_column(name, leapt, other)


def test_a_progression_that_breaks_is_leapt_over_piece_by_piece() -> None:
    """Prompt of 10, 30 tokens: KV goes from 11 to 39, so lines of 20 tokens break after 9 and 20 more."""
    made = stubs.simulator(stubs.requests([0.0], 10, 30), rising(20, cut=True))
    made.run()
    assert stubs.batches(made)["iterations"].tolist() == [1, 9, 20]
