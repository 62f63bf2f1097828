"""The simulator as a queue: waiting times against Pollaczek-Khinchine, Lindley, Crommelin and Little.

One instance that serves one request at a time is an M/G/1 queue when arrivals are Poisson: a request of one
output token is a single batch, whose cost is a constant (M/D/1) or proportional to a prompt length that is
drawn from an exponential distribution (M/M/1). Times are in units of the mean service time.

Means come from independent replications, each without its first customers, who find an emptier queue than
the later ones. An interval is Student's, 99 % wide, over the means of the replications; the seeds are
fixed, so a test that passes always passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import sqrt
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from triptych.policy import Batch
from triptych.simulation.simulator import Simulator

from . import stubs

Floats = npt.NDArray[np.float64]
Service = Literal["constant", "exponential"]

REPLICATIONS = 20
STUDENT_99 = 2.861
"""Two-sided 99 % quantile of Student's t with 19 degrees of freedom."""
CUSTOMERS = {0.5: 2_000, 0.8: 5_000, 0.9: 10_000}
"""Of a replication, by load: waits vary more, and for longer, the heavier it is."""
WARM_UP = 0.2
"""Share of the customers that is left out of the means."""
TICKS = 100_000
"""Prompt tokens that take one unit of time: lengths are whole, and as good as continuous with so many."""


def by_prompt(batch: Batch) -> float:
    return batch.prefill_tokens / TICKS


def queue(
    seed: int,
    load: float,
    service: Service,
    customers: int,
    *,
    servers: int = 1,
    router: str = "random",
    policy: str = "orca",
) -> tuple[Simulator, Floats, Floats]:
    """A queue that has run, with the arrivals and service times that it was given."""
    rng = np.random.default_rng([seed, int(1000 * load), servers])
    arrival = np.cumsum(rng.exponential(1 / (load * servers), customers))
    times = np.ones(customers) if service == "constant" else rng.exponential(1.0, customers)
    prompt = np.maximum(1, np.rint(times * TICKS)).astype(np.int64)
    budget: dict[str, Any] = {"max_tokens": 1 << 40} if policy in ("sarathi", "unified") else {}
    made = stubs.simulator(
        stubs.requests(arrival, prompt),
        stubs.Takes(by_prompt),
        instances=servers,
        router=router,
        router_seed=seed,
        policy=policy,
        max_batch=1,
        **budget,
    )
    made.run()
    return made, arrival, prompt / TICKS


def waits(made: Simulator) -> Floats:
    """Of every request, from its arrival to its first batch."""
    return np.asarray(made.recorder.column("prefill_start") - made.recorder.column("arrival"))


def interval(means: Sequence[float]) -> tuple[float, float]:
    """The 99 % interval of the mean, over independent replications."""
    assert len(means) == REPLICATIONS
    half = STUDENT_99 * float(np.std(means, ddof=1)) / sqrt(len(means))
    centre = float(np.mean(means))
    return centre - half, centre + half


class Means(NamedTuple):
    """Of one replication."""

    wait: float
    left_behind: float
    """Requests in the queue when the service of another has just begun."""
    busy: float
    """Share of the time that a server works."""


@cache
def replications(
    load: float, service: Service, servers: int = 1, router: str = "random"
) -> tuple[Means, ...]:
    """What independent replications give."""
    found = []
    for seed in range(REPLICATIONS):
        made, _, _ = queue(seed, load, service, CUSTOMERS[load], servers=servers, router=router)
        logs = [stubs.batches(made, lane) for lane in range(servers)]
        later = [log[int(WARM_UP * len(log)) :] for log in logs]
        found.append(
            Means(
                wait=float(waits(made)[int(WARM_UP * CUSTOMERS[load]) :].mean()),
                left_behind=float(np.mean([log["waiting"].mean() for log in later])),
                busy=sum(float(log["first"].sum()) for log in logs) / (servers * made.now),
            )
        )
    return tuple(found)


def mean_wait(load: float, service: Service, servers: int = 1, router: str = "random") -> tuple[float, float]:
    """The interval of the mean waiting time."""
    return interval([means.wait for means in replications(load, service, servers, router)])


def pollaczek_khinchine(load: float, service: Service) -> float:
    """Mean wait of M/G/1 in mean service times: load / (1 - load) x (1 + squared CV of service) / 2."""
    squared_cv = {"constant": 0.0, "exponential": 1.0}[service]
    return load / (1 - load) * (1 + squared_cv) / 2


def crommelin(load: float, servers: int) -> float:
    """Mean wait of M/D/c in service times (Crommelin, 1932): a sum over tails of Poisson distributions."""
    total = 0.0
    for least in range(servers, 700, servers):
        mean = load * least
        counts = np.arange(1, least + 1)
        chances = np.exp(-mean + np.concatenate(([0.0], np.cumsum(np.log(mean / counts)))))
        below = chances[:-1].sum()
        total += (1 - below) - (1 - below - chances[-1]) / load
    return total


@pytest.mark.parametrize("load", CUSTOMERS)
@pytest.mark.parametrize("service", ["constant", "exponential"])
def test_mean_wait_is_that_of_pollaczek_and_khinchine(load: float, service: Service) -> None:
    low, high = mean_wait(load, service)
    assert low <= pollaczek_khinchine(load, service) <= high
    assert high - low < 0.4 * pollaczek_khinchine(load, service), "too wide to tell anything"


@pytest.mark.parametrize("load", CUSTOMERS)
def test_the_interval_tells_one_formula_from_the_other(load: float) -> None:
    _, high_of_constant = mean_wait(load, "constant")
    low_of_exponential, _ = mean_wait(load, "exponential")
    assert pollaczek_khinchine(load, "exponential") > high_of_constant
    assert pollaczek_khinchine(load, "constant") < low_of_exponential


@pytest.mark.parametrize("policy", ["static", "orca", "vllm", "sarathi", "unified"])
def test_each_wait_follows_lindley_under_every_policy(policy: str) -> None:
    """W[n+1] = max(0, W[n] + S[n] - A[n]) on the very arrivals and services of the run."""
    made, arrival, service = queue(1, 0.9, "exponential", 2_000, policy=policy)
    expected = np.zeros(len(arrival))
    for n, gap in enumerate(np.diff(arrival)):
        expected[n + 1] = max(0.0, expected[n] + service[n] - gap)
    np.testing.assert_allclose(waits(made), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("service", ["constant", "exponential"])
def test_little_holds_between_the_batch_log_and_the_requests(service: Service) -> None:
    """L = arrival rate x W, with L from the log of batches and W from the requests.

    L may be taken when services begin: arrivals are Poisson and served in order, so that a request then
    leaves behind as many as came during its wait.
    """
    load = 0.8
    found = replications(load, service, 1, "random")
    low, high = interval([means.left_behind - load * means.wait for means in found])
    assert low <= 0 <= high
    assert high - low < 0.1 * pollaczek_khinchine(load, service)
    low, high = interval([means.busy for means in found])
    assert low <= load <= high, "Little on the server alone: it is busy for the offered load"


def test_those_left_behind_are_those_who_came_meanwhile() -> None:
    made, arrival, _ = queue(3, 0.9, "exponential", 2_000)
    log = stubs.batches(made)
    came = np.searchsorted(arrival, log["start"], side="right") - np.arange(len(arrival))
    np.testing.assert_array_equal(log["waiting"], came - 1, "whose batch begins waits no more")


def test_random_routing_splits_the_stream_into_single_queues() -> None:
    """A Poisson stream split by lot is Poisson again, so each of four instances is M/D/1 at the same load."""
    low, high = mean_wait(0.8, "constant", servers=4, router="random")
    assert low <= pollaczek_khinchine(0.8, "constant") <= high


def test_round_robin_over_equal_services_is_one_queue_for_all() -> None:
    """With constant services, taking turns is what a single queue before c servers does: M/D/c."""
    assert crommelin(0.8, 1) == pytest.approx(pollaczek_khinchine(0.8, "constant"))
    low, high = mean_wait(0.8, "constant", servers=4, router="round-robin")
    assert low <= crommelin(0.8, 4) <= high
    assert high < pollaczek_khinchine(0.8, "constant") / 2


def test_least_requests_lies_between_one_queue_and_random() -> None:
    """It knows how many are at an instance, not how far the one in service has got."""
    low, high = mean_wait(0.8, "constant", servers=4, router="least-requests")
    assert crommelin(0.8, 4) < low
    assert high < pollaczek_khinchine(0.8, "constant") / 2
