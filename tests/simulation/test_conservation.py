"""Nothing is lost and nothing invented: requests, tokens, blocks and bytes, over random worlds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych import catalog, plan
from triptych.policy import KVCache, Request, Scheduler
from triptych.policy.router.least_requests import LeastRequestsRouter
from triptych.policy.router.least_tokens import LeastTokensRouter
from triptych.record import Run
from triptych.record.columns import TRANSFER_KINDS
from triptych.record.logs import Columns
from triptych.record.run import FINISHED, STATUSES
from triptych.simulation import api, build
from triptych.simulation.simulator import Simulator

from . import stubs
from .worlds import EMBEDDING_BLOCK_BYTES, SPLITS, World, worlds

ENDED = [STATUSES.index(name) for name in ("finished", "aborted", "timed_out", "rejected")]
REJECTED = STATUSES.index("rejected")
ALWAYS_SENT = ("P / D", "E / P / D", "EP / D", "ED / P")
"""Splits in which nobody decodes where it was prefilled."""
ORDER = (
    *("arrival", "encode_start", "encode_end", "prefill_ready", "prefill_start", "first_token"),
    *("decode_ready", "end"),
)


class Ledger(KVCache):
    """A KV cache that keeps account of the context that is found in it and given up in it."""

    __slots__ = ("computed", "found", "given_up")

    def __init__(self, blocks: int, block_size: int = 16, *, prefix_cache: bool = False) -> None:
        super().__init__(blocks, block_size, prefix_cache=prefix_cache)
        self.found = 0
        """Tokens of context that requests found in the prefix cache."""
        self.given_up = 0
        """Tokens of context that requests had when their blocks were taken back."""
        self.computed: set[int] = set()
        """Hashes of blocks that were once full of computed tokens."""

    def take(self, request: Request, tokens: int, hits: int = 0, *rest: Any, **options: Any) -> bool:
        known = [
            block_hash in self.computed or self._holders[block_hash] > 0
            for block_hash in request.block_hashes[:hits]
        ]
        assert all(known), "found a block that was never computed"
        taken = super().take(request, tokens, hits, *rest, **options)
        if taken:
            self.found += hits * self.block_size
        return taken

    def release(self, request: Request) -> None:
        self.given_up += request.context_tokens
        full = request.context_tokens // self.block_size
        self.computed.update(request.block_hashes[:full])
        never = set(request.block_hashes[full : request.shared_blocks]) - self.computed
        super().release(request)
        self.computed -= never

    def give_back(self, blocks: int, hashes: Sequence[int]) -> None:
        self.computed.update(hashes)
        super().give_back(blocks, hashes)


class Outcome:
    """A run, and what is left of the simulator after it."""

    def __init__(self, world: World) -> None:
        self.world = world
        simulators: list[Simulator] = []

        def keeping(*args: Any, **options: Any) -> Simulator:
            simulators.append(build.build(*args, **options))
            return simulators[0]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plan, "KVCache", Ledger)
            patch.setattr(api, "build", keeping)
            self.run: Run = world.simulate()
        self.simulator = simulators[0]

    @property
    def schedulers(self) -> list[Scheduler]:
        return [lane.scheduler for instance in self.simulator.instances for lane in instance.lanes]

    def ledgers(self) -> list[Ledger]:
        """Each once, though lanes may share it."""
        return list(dict.fromkeys(kv for each in self.schedulers if isinstance(kv := each.kv, Ledger)))

    def logged(self, name: str) -> int:
        """Sum of a batch column over all iterations of all lanes."""
        return int(sum((lane[name] * lane["iterations"]).sum() for lane in self.run.lanes))


@pytest.mark.parametrize("split", SPLITS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_all_that_goes_in_comes_out(split: str, data: st.DataObject) -> None:
    """Every law on the same worlds, since it is the worlds that take the time."""
    outcome = Outcome(data.draw(worlds(split=split)))
    every_request_ends_once(outcome)
    nothing_comes_after_the_client_has_gone(outcome)
    memory_is_empty(outcome)
    routers_have_no_load(outcome)
    times_are_in_order(outcome)
    batches_of_a_lane_do_not_overlap(outcome)
    tokens_add_up(outcome)
    bytes_add_up(outcome)


def every_request_ends_once(outcome: Outcome) -> None:
    requests, made = outcome.run.requests, outcome.simulator
    status = requests["status"]
    assert np.isin(status, ENDED).all()
    assert made.done == len(requests["id"])
    finished = status == FINISHED
    generated, asked = requests["generated_tokens"], requests["output_tokens"]
    np.testing.assert_array_equal(generated[finished], asked[finished])
    assert (generated[~finished] < asked[~finished]).all()
    assert (generated[status == REJECTED] == 0).all()
    if not {"timeout", "aborts"} & outcome.world.workload.keys():
        assert (finished | (status == REJECTED)).all()
    assert outcome.run.horizon >= np.max(requests["end"])
    if not gave_up(requests).any():
        assert outcome.run.horizon == np.max(requests["end"])


def gave_up(requests: Columns) -> np.ndarray:
    """Whose clients did not wait."""
    return np.isin(requests["status"], [STATUSES.index(name) for name in ("aborted", "timed_out")])


def nothing_comes_after_the_client_has_gone(outcome: Outcome) -> None:
    requests, workload = outcome.run.requests, outcome.world.workload
    waited = requests["end"] - requests["arrival"]
    gone = gave_up(requests)
    for status, patience in (("timed_out", workload.get("timeout")), ("aborted", None)):
        if patience is not None:
            mine = requests["status"] == STATUSES.index(status)
            np.testing.assert_allclose(waited[mine], patience, 1e-9)
            assert (waited[requests["status"] == FINISHED] <= patience).all()
    for name in ORDER:
        assert not (requests[name][gone] > requests["end"][gone]).any(), name
    times = [lane.decode_times() for lane in outcome.run.lanes]
    spans = outcome.run.spans.columns
    for whose, lane, join, leave in zip(
        *(spans[name].tolist() for name in ("request", "lane", "join", "leave")), strict=True
    ):
        if gone[whose] and leave > join:
            assert times[lane][leave - 1] <= requests["end"][whose] * (1 + 1e-12)


def memory_is_empty(outcome: Outcome) -> None:
    assert all(lane.requests == 0 for instance in outcome.simulator.instances for lane in instance.lanes)
    for scheduler in outcome.schedulers:
        assert len(scheduler) == 0
        assert not scheduler.held
        assert not scheduler.leaving
        assert not scheduler.reserved
        assert scheduler.decodes.context_tokens == 0
        assert scheduler.kv.free == scheduler.kv.blocks
        assert scheduler.embeddings is None or scheduler.embeddings.free == scheduler.embeddings.blocks


def routers_have_no_load(outcome: Outcome) -> None:
    for router in outcome.simulator.routers:
        if isinstance(router, (LeastRequestsRouter, LeastTokensRouter)):
            assert set(router.loads) == {0}


def times_are_in_order(outcome: Outcome) -> None:
    requests = outcome.run.requests
    for i in range(len(requests["id"])):
        known = [(name, requests[name][i]) for name in ORDER if not np.isnan(requests[name][i])]
        for (one, before), (other, after) in pairwise(known):
            assert before <= after, f"request {i}: {one} {before} is after {other} {after}"
    finished = outcome.run.finished
    for name in ("arrival", "prefill_ready", "prefill_start", "first_token", "end"):
        assert not np.isnan(requests[name][finished]).any(), name
    decoded = finished & (requests["output_tokens"] > 1)
    np.testing.assert_array_equal(~np.isnan(requests["decode_ready"][finished]), decoded[finished])
    with_images = finished & (requests["images"] > 0)
    np.testing.assert_array_equal(~np.isnan(requests["encode_end"][finished]), with_images[finished])


def batches_of_a_lane_do_not_overlap(outcome: Outcome) -> None:
    for lane in outcome.run.lanes:
        assert (lane.ends[:-1] <= lane["start"][1:] * (1 + 1e-12)).all()
        assert (lane.seconds > 0).all()
        assert (lane.ends <= outcome.run.horizon * (1 + 1e-12)).all()


def tokens_add_up(outcome: Outcome) -> None:
    """Context is computed in prefill or decode, or found; and all of it is given up again."""
    requests, spans = outcome.run.requests, outcome.run.spans.columns
    ledgers = outcome.ledgers()
    prefilled, decoded = outcome.logged("prefill_tokens"), outcome.logged("decodes")
    found = sum(ledger.found for ledger in ledgers)
    assert prefilled + decoded + found == sum(ledger.given_up for ledger in ledgers)
    # The batch that runs when a client gives up may compute one more token, which does not count.
    gone = gave_up(requests)
    assert 0 <= outcome.logged("sampled") - requests["generated_tokens"].sum() <= gone.sum()
    assert 0 <= decoded - (spans["leave"] - spans["join"]).sum() <= gone.sum()

    if not gone.any() and not requests["preemptions"].any():
        served = outcome.run.finished
        assert prefilled == (requests["prompt_tokens"] - requests["cached_tokens"])[served].sum()
        assert decoded == (requests["output_tokens"] - 1)[served].sum()

    assert (requests["cached_tokens"] < requests["prompt_tokens"]).all()
    if not any(pool.get("prefix_cache") for pool in outcome.world.deployment["pools"].values()):
        assert not requests["cached_tokens"].any()
        assert found == 0


def bytes_add_up(outcome: Outcome) -> None:
    requests, transfers = outcome.run.requests, outcome.run.transfers
    assert transfers is not None
    columns = transfers.columns
    model = catalog.model(outcome.world.deployment["model"])
    whose, kv = columns["request"], columns["kind"] == TRANSFER_KINDS.index("kv")
    per_token = model.kv_bytes_per_token("bf16")
    context = columns["bytes"][kv] / per_token
    prompt = requests["prompt_tokens"][whose[kv]]
    undisturbed = requests["preemptions"][whose[kv]] == 0
    np.testing.assert_array_equal(context[undisturbed], prompt[undisturbed])
    if outcome.world.split in ALWAYS_SENT:
        again_and_again(outcome, whose[kv], context)
    if not kv.all():
        sent = columns["bytes"][~kv] / model.embedding_bytes_per_token("bf16")
        np.testing.assert_allclose(sent, requests["image_tokens"][whose[~kv]], 1e-12)

    assert (columns["source"] != columns["target"]).all() or outcome.world.split == "ED / P"
    seconds = np.bincount(whose, columns["end"] - columns["start"], minlength=len(requests["id"]))
    np.testing.assert_allclose(requests["transfer_seconds"], seconds, 1e-9, 1e-15)

    # Who finished without a detour had exactly what the pools ask for.
    smooth = outcome.run.finished & (requests["preemptions"] == 0)
    moved = smooth & (requests["output_tokens"] > 1)
    moved &= requests["prefill_instance"] != requests["decode_instance"]
    np.testing.assert_array_equal(np.bincount(whose[kv], minlength=len(smooth))[smooth], moved[smooth])
    shown = smooth & (requests["images"] > 0)
    shown &= requests["encode_instance"] != requests["prefill_instance"]
    np.testing.assert_array_equal(np.bincount(whose[~kv], minlength=len(smooth))[smooth], shown[smooth])
    first_landing = np.full(len(smooth), np.inf)
    np.minimum.at(first_landing, whose[kv], columns["end"][kv])
    landed = first_landing <= requests["end"]
    np.testing.assert_array_equal(requests["decode_ready"][landed], first_landing[landed])


def again_and_again(outcome: Outcome, whose: np.ndarray, context: np.ndarray) -> None:
    """After a preemption the KV of what had been generated by then is sent as well.

    Each time it has grown by what was decoded in the stay before, and by the token from prefill.
    """
    spans = outcome.run.spans.columns
    stays = {int(request): (spans["leave"] - spans["join"])[spans["request"] == request] for request in whose}
    for request, decoded in stays.items():
        sent = context[whose == request]
        grown = np.concatenate(([0], np.cumsum(decoded + 1)))[: len(sent)]
        np.testing.assert_array_equal(sent, outcome.run.requests["prompt_tokens"][request] + grown)


@pytest.mark.parametrize("policy", ["vllm", "sarathi", "unified"])
@pytest.mark.parametrize("split", ["one pool with images", "ED / P", "EPD + P / D"])
def test_images_of_a_preempted_request_always_find_room(split: str, policy: str) -> None:
    """It never waits for room that another keeps, with a part of its images, while waiting for more."""
    scarce = {"embedding_cache": 12 * EMBEDDING_BLOCK_BYTES}
    knobs = {"policy": policy, "max_batch": 8, "max_tokens": 20}
    text = {"scheduler": knobs, "block_size": 1, "kv_blocks": 330}
    pools = {
        "".join(phase[0] for phase in phases): {"phases": phases, "device": "A10", **text}
        | ({} if phases == ["decode"] else scarce)
        for phases in SPLITS[split]
    }
    workload = {
        "requests": 60,
        "arrivals": {"kind": "poisson", "rate": 300},
        "prompt": {"kind": "uniform", "low": 1, "high": 20},
        "output": {"kind": "uniform", "low": 30, "high": 120},
        "images": {
            "share": 0.9,
            "count": {"low": 1, "high": 3},
            "sizes": [{"width": 112, "height": 84}, {"width": 224, "height": 196}],
        },
    }
    outcome = Outcome(World(split, {"model": "Qwen2.5-VL-3B", "pools": pools}, workload))
    assert outcome.run.requests["preemptions"].sum() > 10
    every_request_ends_once(outcome)
    times_are_in_order(outcome)


def test_of_a_prompt_given_up_midway_only_what_was_computed_is_found() -> None:
    """Chunks of 64 a second: two of them are done at 2, when the first request is dropped."""
    traffic = replace(
        stubs.requests([0.0, 5.0], 640, 1, patience=[1.5, np.inf]),
        prefix_offsets=np.array([0, 1, 2]),
        prefix_ids=np.array([7, 7]),
        prefix_block_tokens=640,
    )
    for policy in ("sarathi", "unified"):
        made = stubs.simulator(
            traffic, stubs.Takes(), policy=policy, max_tokens=64, max_batch=4, prefix_cache=True, blocks=100
        )
        made.run()
        assert list(made.recorder.cached_tokens) == [0, 128], policy
        assert list(made.recorder.end) == [1.5, 5.0 + (640 - 128) / 64]
