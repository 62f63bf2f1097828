"""Overload is named where arrivals outpace service, and only there."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from triptych.record.overload import find_overload

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
        "encode_start": never,
        "prefill_ready": arrivals,
        "prefill_start": starts,
        "first_token": starts,
        "decode_ready": starts,
        "end": starts + 1,
        **more,
    }


def poisson(count: int, seed: int) -> Times:
    """At one request per second."""
    return np.cumsum(np.random.default_rng(seed).exponential(1.0, count))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("load", [0.5, 0.9, 0.95])
def test_a_busy_but_stable_queue_is_no_overload(load: float, seed: int) -> None:
    arrivals = poisson(5000, seed)
    assert find_overload(record(arrivals, queue(arrivals, np.full(5000, load)))) is None


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("load", [1.1, 1.5])
def test_more_than_can_be_served_is_overload(load: float, seed: int) -> None:
    arrivals = poisson(5000, seed)
    overload = find_overload(record(arrivals, queue(arrivals, np.full(5000, load))))
    assert overload is not None
    assert overload.arrival_rate == pytest.approx(1.0, rel=0.06)
    assert overload.served_rate == pytest.approx(1 / load, rel=0.01)
    (prefill,) = overload.queues
    assert prefill.phase == "prefill"
    assert prefill.growth == pytest.approx(overload.arrival_rate - overload.served_rate)
    assert overload.drain_seconds == pytest.approx(prefill.length * load, rel=0.01)


@pytest.mark.parametrize("seed", SEEDS)
def test_irregular_service_at_high_load_is_no_overload(seed: int) -> None:
    arrivals = poisson(5000, seed)
    services = np.random.default_rng(seed + 100).lognormal(-0.5, 1.0, 5000) * 0.9
    assert find_overload(record(arrivals, queue(arrivals, services))) is None


def test_a_burst_that_is_worked_off_is_no_overload() -> None:
    arrivals = np.sort(np.concatenate([poisson(3000, 0), np.linspace(2000, 2010, 500)]))
    assert find_overload(record(arrivals, queue(arrivals, np.full(3500, 0.5)))) is None


def test_a_burst_at_the_end_is_no_trend() -> None:
    arrivals = np.concatenate([poisson(3000, 0), np.linspace(3100, 3110, 500)])
    assert find_overload(record(arrivals, queue(arrivals, np.full(3500, 0.5)))) is None


def test_long_service_beside_a_short_trace_is_no_overload() -> None:
    arrivals = poisson(1000, 0)
    assert find_overload(record(arrivals, arrivals + 0.1, end=arrivals + 5000)) is None


def test_requests_that_all_come_at_once_are_no_overload() -> None:
    arrivals = np.zeros(1000)
    assert find_overload(record(arrivals, queue(arrivals, np.ones(1000)))) is None


def test_a_closed_loop_is_no_overload() -> None:
    """A hundred clients at one server, each sending its next request when its last has ended."""
    clients, count = 100, 3000
    starts = np.arange(count, dtype=np.float64)
    arrivals = np.concatenate([np.zeros(clients), starts[: count - clients] + 1])
    assert find_overload(record(arrivals, starts)) is None


def test_no_requests_are_no_overload() -> None:
    assert find_overload(record(np.empty(0), np.empty(0))) is None


def test_the_phase_that_falls_behind_is_named() -> None:
    arrivals = poisson(2000, 1)
    tokens = arrivals + 0.1
    overload = find_overload(record(arrivals, tokens, decode_ready=queue(tokens, np.full(2000, 2.0))))
    assert overload is not None
    assert [each.phase for each in overload.queues] == ["decode"]

    starts = queue(arrivals, np.full(2000, 2.0))
    encoded = record(arrivals, starts + 1, encode_start=starts, prefill_ready=starts + 1)
    overload = find_overload({**encoded, "images": np.ones(2000, np.int64)})
    assert overload is not None
    assert [each.phase for each in overload.queues] == ["encode"]


def test_requests_that_were_never_served_still_wait() -> None:
    arrivals = poisson(2000, 2)
    starts = np.where(np.arange(2000) < 500, arrivals, np.nan)
    overload = find_overload(record(arrivals, starts))
    assert overload is not None
    assert overload.served_rate == pytest.approx(0.0, abs=0.3)


def test_requests_that_time_out_leave_the_queue() -> None:
    arrivals = poisson(2000, 2)
    starts = np.where(np.arange(2000) % 2 == 0, arrivals, np.nan)
    assert find_overload(record(arrivals, starts, end=arrivals + 5.0)) is None


def test_measured_from_outside_the_wait_is_that_for_the_first_token() -> None:
    arrivals = poisson(5000, 3)
    never = np.full(5000, np.nan)
    tokens = queue(arrivals, np.full(5000, 1.5))
    outside = record(arrivals, never, prefill_ready=never, decode_ready=never, first_token=tokens)
    overload = find_overload({**outside, "end": tokens + 1})
    assert overload is not None
    assert overload.served_rate == pytest.approx(1 / 1.5, rel=0.01)
