"""Overload is named where arrivals outpace service, and only there."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import triptych
from triptych.record import STATUSES, Run
from triptych.record.overload import find_overload
from triptych.record.summary import Overload
from triptych.spec.deployment import Deployment
from triptych.spec.workload import WorkloadSpec

Times = npt.NDArray[np.float64]
SEEDS = range(8)


def queue(arrivals: Times, services: Times) -> Times:
    """When a single server begins with each request, first come first served."""
    busy_until = 0.0
    starts = np.empty_like(arrivals)
    for i, (arrival, service) in enumerate(zip(arrivals.tolist(), services.tolist(), strict=True)):
        starts[i] = max(arrival, busy_until)
        busy_until = starts[i] + service
    return starts


def record(arrivals: Times, starts: Times, **more: Any) -> dict[str, Any]:
    never = np.full(len(arrivals), np.nan)
    return {
        "arrival": arrivals,
        "images": np.zeros(len(arrivals), np.int64),
        "output_tokens": np.full(len(arrivals), 10),
        "status": np.full(len(arrivals), STATUSES.index("finished"), np.int8),
        "encode_start": never,
        "encode_end": never,
        "encode_instance": np.full(len(arrivals), -1),
        "prefill_instance": np.zeros(len(arrivals), np.int64),
        "decode_instance": np.zeros(len(arrivals), np.int64),
        "prefill_ready": arrivals,
        "prefill_start": starts,
        "first_token": starts,
        "decode_ready": starts,
        "end": starts + 1,
        "transfer_seconds": np.zeros(len(arrivals)),
        **more,
    }


def overload_of(requests: dict[str, Any]) -> Overload | None:
    return find_overload(requests)[0]


def settled(requests: dict[str, Any]) -> bool:
    return find_overload(requests)[1]


def poisson(count: int, seed: int) -> Times:
    """At one request per second."""
    return np.cumsum(np.random.default_rng(seed).exponential(1.0, count))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("load", [0.5, 0.9, 0.95])
def test_a_busy_but_stable_queue_is_no_overload(load: float, seed: int) -> None:
    arrivals = poisson(5000, seed)
    assert overload_of(record(arrivals, queue(arrivals, np.full(5000, load)))) is None


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("load", [1.1, 1.5])
def test_more_than_can_be_served_is_overload(load: float, seed: int) -> None:
    arrivals = poisson(5000, seed)
    overload = overload_of(record(arrivals, queue(arrivals, np.full(5000, load))))
    assert overload is not None
    assert overload.arrival_rate == pytest.approx(1.0, rel=0.06)
    assert overload.served_rate == pytest.approx(1 / load, rel=0.01)
    (prefill,) = overload.queues
    assert prefill.phase == "prefill"
    assert prefill.growth == pytest.approx(overload.arrival_rate - overload.served_rate, rel=0.05)
    assert overload.drain_seconds == pytest.approx(prefill.length * load, rel=0.01)
    assert overload.certain


@pytest.mark.parametrize("seed", SEEDS)
def test_irregular_service_at_high_load_is_no_overload(seed: int) -> None:
    arrivals = poisson(5000, seed)
    services = np.random.default_rng(seed + 100).lognormal(-0.5, 1.0, 5000) * 0.9
    assert overload_of(record(arrivals, queue(arrivals, services))) is None


def test_a_burst_that_is_worked_off_is_no_overload() -> None:
    arrivals = np.sort(np.concatenate([poisson(3000, 0), np.linspace(2000, 2010, 500)]))
    assert overload_of(record(arrivals, queue(arrivals, np.full(3500, 0.5)))) is None


def test_a_burst_at_the_end_is_no_trend() -> None:
    arrivals = np.concatenate([poisson(3000, 0), np.linspace(3100, 3110, 500)])
    assert overload_of(record(arrivals, queue(arrivals, np.full(3500, 0.5)))) is None


def test_long_service_beside_a_short_trace_is_no_overload_but_nothing_had_settled() -> None:
    arrivals = poisson(1000, 0)
    assert find_overload(record(arrivals, arrivals + 0.1, end=arrivals + 5000)) == (None, False)


def test_requests_that_all_come_at_once_are_no_overload() -> None:
    arrivals = np.zeros(1000)
    assert overload_of(record(arrivals, queue(arrivals, np.ones(1000)))) is None


def test_a_closed_loop_is_no_overload() -> None:
    """A hundred clients at one server, each sending its next request when its last has ended."""
    clients, count = 100, 3000
    starts = np.arange(count, dtype=np.float64)
    arrivals = np.concatenate([np.zeros(clients), starts[: count - clients] + 1])
    assert overload_of(record(arrivals, starts)) is None


def test_no_requests_are_no_overload() -> None:
    assert overload_of(record(np.empty(0), np.empty(0))) is None


def test_the_phase_that_falls_behind_is_named() -> None:
    arrivals = poisson(2000, 1)
    tokens = arrivals + 0.1
    overload = overload_of(record(arrivals, tokens, decode_ready=queue(tokens, np.full(2000, 2.0))))
    assert overload is not None
    assert [each.phase for each in overload.queues] == ["decode"]

    starts = queue(arrivals, np.full(2000, 2.0))
    encoded = record(arrivals, starts + 1, encode_start=starts, prefill_ready=starts + 1)
    overload = overload_of({**encoded, "images": np.ones(2000, np.int64)})
    assert overload is not None
    assert [each.phase for each in overload.queues] == ["encode"]


def test_requests_that_were_never_served_still_wait() -> None:
    arrivals = poisson(2000, 2)
    starts = np.where(np.arange(2000) < 500, arrivals, np.nan)
    overload = overload_of(record(arrivals, starts))
    assert overload is not None
    assert overload.served_rate == pytest.approx(0.0, abs=0.3)


def test_requests_that_time_out_leave_the_queue() -> None:
    arrivals = poisson(2000, 2)
    starts = np.where(np.arange(2000) % 2 == 0, arrivals, np.nan)
    assert overload_of(record(arrivals, starts, end=arrivals + 5.0)) is None


def test_measured_from_outside_the_wait_is_that_for_the_first_token() -> None:
    arrivals = poisson(5000, 3)
    never = np.full(5000, np.nan)
    tokens = queue(arrivals, np.full(5000, 1.5))
    outside = record(arrivals, never, prefill_ready=never, decode_ready=never, first_token=tokens)
    overload = overload_of({**outside, "end": tokens + 1})
    assert overload is not None
    assert overload.served_rate == pytest.approx(1 / 1.5, rel=0.01)


def test_an_overloaded_run_has_not_settled() -> None:
    arrivals = poisson(5000, 0)
    assert not settled(record(arrivals, queue(arrivals, np.full(5000, 1.5))))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("load", [0.5, 0.9])
def test_a_stable_queue_has_settled(load: float, seed: int) -> None:
    arrivals = poisson(5000, seed)
    assert settled(record(arrivals, queue(arrivals, np.full(5000, load))))


TOKENS = 60


def growing_batch(arrivals: Times, load: float, alone: float) -> Times:
    """When requests of TOKENS tokens end that all join one batch: an iteration takes a + b x requests.

    `alone` is the latency, in seconds, of a request that has the batch to itself, but for its own b.
    """
    a, b = alone / TOKENS, load / TOKENS
    ends = np.empty_like(arrivals)
    now, first, last = 0.0, 0, 0  # requests first..last-1 are in the batch
    joined: list[int] = []
    iteration = 0
    while first < len(arrivals):
        if first == last:
            now = max(now, float(arrivals[last]))
        while last < len(arrivals) and arrivals[last] <= now:
            joined.append(iteration)
            last += 1
        now += a + b * (last - first)
        iteration += 1
        while first < last and joined[first] + TOKENS <= iteration:
            ends[first] = now
            first += 1
    return ends


def batch_record(arrivals: Times, load: float, alone: float = 5.0) -> dict[str, Any]:
    """Nothing queues: each request has its first token when it comes."""
    return record(arrivals, arrivals, end=growing_batch(arrivals, load, alone))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("load", [1.3, 1.5])
def test_a_batch_that_grows_without_end_is_overload(load: float, seed: int) -> None:
    overload, had_settled = find_overload(batch_record(poisson(3000, seed), load))
    assert overload is not None
    assert not had_settled
    (system,) = overload.queues
    assert system.phase == "system"
    assert overload.arrival_rate == pytest.approx(1.0, rel=0.1)
    assert overload.served_rate < 0.95
    assert system.growth == pytest.approx(overload.arrival_rate - overload.served_rate)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("load", [0.5, 0.8, 0.9])
def test_a_batch_that_fills_up_is_no_overload_however_short_the_trace(load: float, seed: int) -> None:
    for count in (2, 10, 30, 100, 300, 1000):
        assert overload_of(batch_record(poisson(count, seed), load)) is None, count


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("load", [0.5, 0.8])
def test_a_batch_that_has_filled_up_has_settled(load: float, seed: int) -> None:
    assert settled(batch_record(poisson(1000, seed), load))
    assert not settled(batch_record(poisson(20, seed), load, alone=20.0))


@pytest.mark.parametrize("tau", [10.0, 300.0, 1000.0])
def test_a_latency_that_rises_to_a_level_is_no_overload(tau: float) -> None:
    arrivals = poisson(1000, 0)
    latency = 20 + 100 * (1 - np.exp(-arrivals / tau))
    requests = record(arrivals, arrivals, end=arrivals + latency)
    assert overload_of(requests) is None
    assert settled(requests) == (tau == 10.0)


def test_requests_that_come_faster_are_more_but_have_settled() -> None:
    """Three times as many a second at the end, each of them served as soon as the first."""
    arrivals = 1000 * (np.sqrt(1 + 8 * np.arange(2000) / 2000) - 1) / 2
    assert find_overload(record(arrivals, arrivals, end=arrivals + 100)) == (None, True)


def test_a_burst_into_a_growing_batch_is_no_overload() -> None:
    arrivals = np.sort(np.concatenate([poisson(1000, 0), np.linspace(800, 805, 100)]))
    assert overload_of(batch_record(arrivals, 0.5)) is None


def simulated(requests: int, rate: float) -> Run:
    """Everything that comes is admitted: the batch has no bound but memory."""
    scheduler = {"policy": "vllm", "max_batch": 4096}
    pool = {"phases": ["prefill", "decode"], "device": "A100-80GB", "scheduler": scheduler}
    workload = {
        "requests": requests,
        "arrivals": {"kind": "poisson", "rate": rate},
        "prompt": {"kind": "fixed", "tokens": 500},
        "output": {"kind": "fixed", "tokens": 1000},
    }
    deployment = Deployment.parse({"model": "Llama-3-8B", "pools": {"all": pool}})
    return triptych.simulate(deployment, WorkloadSpec.parse(workload))


def test_a_simulated_batch_that_grows_is_overload() -> None:
    run = simulated(4000, rate=7.0)
    overload, had_settled = find_overload(run.requests)
    assert overload is not None
    assert not had_settled
    assert [queue.phase for queue in overload.queues] == ["prefill"], "memory bounds the batch in the end"
    most = len(run) / run.horizon  # the batch is large nearly all of the time
    assert overload.served_rate == pytest.approx(most, rel=0.1)
    assert overload.certain


@pytest.mark.parametrize("rate", [2.5, 4.0])
def test_a_simulated_batch_that_does_not_grow_has_settled(rate: float) -> None:
    assert find_overload(simulated(1000, rate).requests) == (None, True)


@pytest.mark.parametrize("rate", [6.0, 10.0])
def test_a_simulated_trace_that_is_too_short_has_not_settled(rate: float) -> None:
    assert not settled(simulated(300, rate).requests)


def lines(arrivals: Times, services: Times, servers: int, seed: int) -> tuple[Times, npt.NDArray[np.int64]]:
    """When servers begin that are chosen by lot, and which; each has a line of its own."""
    place = np.random.default_rng(seed).integers(0, servers, len(arrivals))
    starts = np.empty_like(arrivals)
    for server in range(servers):
        mine = place == server
        starts[mine] = queue(arrivals[mine], services[mine])
    return starts, place


def slots(arrivals: Times, tokens: npt.NDArray[np.int64], full: float, size: int) -> tuple[Times, Times]:
    """Begin and end of requests in a batch of at most `size`; an iteration of so many takes `full`."""
    starts, ends = np.empty_like(arrivals), np.empty_like(arrivals)
    now, step, come = 0.0, 0, 0
    batch: list[tuple[int, int]] = []
    while come < len(arrivals) or batch:
        if not batch:
            now = max(now, float(arrivals[come]))
        while come < len(arrivals) and arrivals[come] <= now and len(batch) < size:
            starts[come] = now
            heappush(batch, (step + int(tokens[come]), come))
            come += 1
        now += full * (0.5 + 0.5 * len(batch) / size)
        step += 1
        while batch and batch[0][0] <= step:
            ends[heappop(batch)[1]] = now
    return starts, ends


def world(kind: str, load: float, count: int, seed: int) -> dict[str, Any]:
    """A random record at one request per second, whose servers could do 1 / load of them."""
    rng = np.random.default_rng([seed, count, int(1000 * load), len(kind)])
    shape = 1 / 9 if kind.startswith("bursts") else 1.0
    arrivals = np.cumsum(rng.gamma(shape, 1 / shape, count))
    even, uneven = np.ones(count), rng.lognormal(-0.5, 1.0, count)
    services = load * (uneven if kind.endswith("uneven") else even)
    if kind.startswith("batch"):
        tokens = np.maximum(1, np.rint(60 * services / load)).astype(np.int64)
        starts, ends = slots(arrivals, tokens, load * 32 / 60, 32)
        return record(arrivals, starts, end=ends)
    if kind.startswith("lines"):
        starts, place = lines(arrivals, 4 * services, 4, seed)
        ends = starts + 4 * services
        return record(arrivals, starts, end=ends, prefill_instance=place, decode_instance=place)
    starts = queue(arrivals, services)
    return record(arrivals, starts, end=starts + services)


KINDS = (
    "line even",
    "line uneven",
    "bursts even",
    "lines even",
    "lines uneven",
    "batch even",
    "batch uneven",
)
WORLDS = 10
"""Worlds of each kind."""


@pytest.mark.parametrize("declared", [None, 1.0], ids=["rate as it came", "rate declared"])
def test_stable_worlds_at_high_load_raise_no_alarm(declared: float | None) -> None:
    alarms = [
        overload is not None and overload.certain
        for kind in KINDS
        for load in (0.8, 0.9)
        for seed in range(WORLDS)
        for overload, _ in [find_overload(world(kind, load, 1000, seed), declared)]
    ]
    assert sum(alarms) <= 0.02 * len(alarms)


@pytest.mark.parametrize(
    ("declared", "found"), [(None, 0.75), (1.0, 0.93)], ids=["rate as it came", "rate declared"]
)
def test_overload_is_found_in_short_runs(declared: float | None, found: float) -> None:
    """At a load of 1.2, after 1,000 requests."""
    overloads = [
        find_overload(world(kind, 1.2, 1000, seed), declared)[0] for kind in KINDS for seed in range(WORLDS)
    ]
    assert np.mean([overload is not None and overload.certain for overload in overloads]) >= found
    loads = [overload.arrival_rate / overload.served_rate for overload in overloads if overload is not None]
    assert np.median(loads) == pytest.approx(1.2, rel=0.05)


@pytest.mark.parametrize(("rate", "overloaded"), [(4.5, False), (5.3, True)])
def test_a_short_simulated_run_is_known_by_its_capacity(rate: float, overloaded: bool) -> None:
    """Two instances with memory for 4.7 requests/s; the batch fills up for a third of the time."""
    pool = {
        "phases": ["prefill", "decode"],
        "device": "H100",
        "instances": 2,
        "parallel": {"tensor": 4},
        "scheduler": {"policy": "unified"},
    }
    found = []
    for seed in range(4):
        workload = {
            "requests": 1000,
            "seed": seed,
            "arrivals": {"kind": "poisson", "rate": rate},
            "prompt": {"kind": "fixed", "tokens": 4000},
            "output": {"kind": "fixed", "tokens": 500},
        }
        deployment = Deployment.parse({"model": "Llama-3.1-70B", "pools": {"all": pool}})
        overload = triptych.summarise(triptych.simulate(deployment, WorkloadSpec.parse(workload))).overload
        found.append(overload is not None and overload.certain)
    assert sum(found) >= 3 if overloaded else not any(found)


def test_transfers_are_marked_only_where_they_grow() -> None:
    """Decode falls behind; its memory is what is waited for, or the network that brings the KV."""
    arrivals = poisson(2000, 1)
    waits = record(arrivals, arrivals, decode_ready=queue(arrivals, np.full(2000, 2.0)))
    waits["end"] = waits["decode_ready"] + 1
    for transfer, marked in ((np.full(2000, 0.1), False), (waits["decode_ready"] - arrivals, True)):
        overload = overload_of({**waits, "transfer_seconds": transfer})
        assert overload is not None
        assert {"tpot", "itl", "decode_queue"} < set(overload.metrics)
        assert ("transfer_seconds" in overload.metrics) == marked


def test_embeddings_that_are_not_sent_in_time_are_part_of_ttft() -> None:
    arrivals = poisson(2000, 1)
    ready = queue(arrivals, np.full(2000, 2.0))
    sent = record(arrivals, ready, encode_start=arrivals, encode_end=arrivals, prefill_ready=ready)
    overload = overload_of({**sent, "images": np.ones(2000, np.int64)})
    assert overload is not None
    assert [one.phase for one in overload.queues] == ["embeddings"]
    assert "ttft" in overload.metrics


def test_from_outside_an_answer_that_takes_ever_longer_is_marked() -> None:
    """The front queue grows, and so does what comes after the first token, or it does not."""
    arrivals = poisson(2000, 3)
    never = np.full(2000, np.nan)
    tokens = queue(arrivals, np.full(2000, 1.5))
    outside = record(arrivals, never, prefill_ready=never, decode_ready=never, first_token=tokens)
    for answer, marked in ((np.full(2000, 5.0), False), (5 + arrivals / 10, True)):
        overload = overload_of({**outside, "end": tokens + answer})
        assert overload is not None
        assert "ttft" in overload.metrics
        assert ({"tpot", "itl"} <= set(overload.metrics)) == marked


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", range(100))
def test_a_record_of_anything_is_judged_without_a_fault(seed: int) -> None:
    """Few requests, ties, phases that were never reached, instances that are not known, runs cut short."""
    rng = np.random.default_rng(seed)
    count = int(rng.choice([1, 2, 10, 50, 300]))
    missing = float(rng.choice([0.0, 0.1, 0.5, 1.0]))

    def after(times: Times) -> Times:
        later = times + np.round(
            rng.exponential(rng.choice([0.0, 0.1, 10.0]), count), int(rng.integers(0, 4))
        )
        return np.where(rng.random(count) < missing, np.nan, later)

    arrivals = np.sort(np.round(rng.exponential(10.0, count), int(rng.integers(0, 5))))
    encoding = after(arrivals)
    encoded = after(encoding)
    ready = np.where(rng.random(count) < 0.5, arrivals, after(encoded))
    prefill = after(ready)
    first_token = after(prefill)
    decoding = after(first_token)
    place = rng.integers(-1, rng.choice([1, 3, 400]), count)
    requests = record(
        arrivals,
        prefill,
        encode_start=encoding,
        encode_end=encoded,
        prefill_ready=ready,
        first_token=first_token,
        decode_ready=decoding,
        end=after(decoding),
        prefill_instance=place,
        decode_instance=place,
        images=rng.integers(0, 2, count),
        output_tokens=rng.integers(1, 3, count),
        status=rng.integers(0, len(STATUSES), count).astype(np.int8),
    )
    for rate in (None, 2.0):
        overload, _ = find_overload(requests, rate)
        assert overload is None or 0.95 <= overload.sure <= 1.0
