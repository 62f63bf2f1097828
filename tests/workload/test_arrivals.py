"""When requests come: the statistics of each process, and what bounds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from triptych.spec.workload import WorkloadSpec
from triptych.workload.arrivals import arrival_times

Declare = Callable[..., WorkloadSpec]
N = 200_000
TRACED = np.array([0.0, 1.0, 1.0, 4.0, 10.0])


def gaps(spec: WorkloadSpec) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.diff(arrival_times(spec, None), prepend=0.0)


@pytest.mark.parametrize(
    ("process", "cv"),
    [
        ({"kind": "poisson"}, 1.0),
        ({"kind": "gamma", "cv": 0.3}, 0.3),
        ({"kind": "gamma", "cv": 1.0}, 1.0),
        ({"kind": "gamma", "cv": 3.0}, 3.0),
    ],
    ids=str,
)
def test_gaps_have_the_mean_and_the_spread_that_are_declared(
    declare: Declare, process: dict[str, Any], cv: float
) -> None:
    drawn = gaps(declare(requests=N, arrivals={**process, "rate": 6.45}))
    standard_error = cv / 6.45 / N**0.5
    assert abs(drawn.mean() - 1 / 6.45) < 4 * standard_error
    assert drawn.std() / drawn.mean() == pytest.approx(cv, rel=0.03)


def test_poisson_counts_vary_as_much_as_their_mean(declare: Declare) -> None:
    times = arrival_times(declare(requests=N, arrivals={"kind": "poisson", "rate": 5}), None)
    counts = np.bincount(times.astype(int))[:-1]
    assert counts.var() / counts.mean() == pytest.approx(1, abs=0.05)


def test_constant_arrivals_begin_at_0_and_keep_their_distance(declare: Declare) -> None:
    times = arrival_times(declare(requests=4, arrivals={"kind": "constant", "rate": 8}), None)
    assert times.tolist() == [0, 0.125, 0.25, 0.375]


@pytest.mark.parametrize("process", [{"kind": "at-once"}, {"kind": "closed", "concurrency": 8}])
def test_without_times_all_come_at_0(declare: Declare, process: dict[str, Any]) -> None:
    assert arrival_times(declare(requests=3, arrivals=process), None).tolist() == [0, 0, 0]


def test_a_duration_alone_bounds_the_number(declare: Declare) -> None:
    spec = declare(requests=None, duration="1000 s", arrivals={"kind": "poisson", "rate": 10})
    times = arrival_times(spec, None)
    assert len(times) == pytest.approx(10_000, abs=4 * 100)
    assert times[-1] < 1000


def test_a_duration_holds_what_comes_before_its_end(declare: Declare) -> None:
    spec = declare(requests=None, duration=2, arrivals={"kind": "constant", "rate": 2})
    assert arrival_times(spec, None).tolist() == [0, 0.5, 1, 1.5]


@pytest.mark.parametrize(
    ("requests", "duration", "count"), [(3, 2, 3), (10, 2, 4)], ids=["requests", "duration"]
)
def test_the_tighter_of_two_bounds_counts(
    declare: Declare, requests: int, duration: float, count: int
) -> None:
    arrivals = {"kind": "constant", "rate": 2}
    spec = declare(requests=requests, duration=duration, arrivals=arrivals)
    assert len(arrival_times(spec, None)) == count


@pytest.mark.parametrize("process", [{"kind": "poisson"}, {"kind": "gamma", "cv": 12}], ids=str)
@pytest.mark.parametrize("seed", range(6))
def test_a_bound_does_not_change_the_times_before_it(
    declare: Declare, process: dict[str, Any], seed: int
) -> None:
    """The seeds of bursty arrivals differ in how many pieces the draw of a duration takes."""
    arrivals = {**process, "rate": 10}
    many = arrival_times(declare(requests=20_000, arrivals=arrivals, seed=seed), None)
    few = arrival_times(declare(requests=100, arrivals=arrivals, seed=seed), None)
    short = arrival_times(declare(requests=None, duration=100, arrivals=arrivals, seed=seed), None)
    assert np.array_equal(few, many[:100])
    assert np.array_equal(short, many[many < 100])


def test_another_rate_stretches_the_same_pattern(declare: Declare) -> None:
    slow = arrival_times(declare(arrivals={"kind": "poisson", "rate": 1}), None)
    fast = arrival_times(declare(arrivals={"kind": "poisson", "rate": 4}), None)
    scaled = arrival_times(declare(arrivals={"kind": "poisson", "rate": 1}, rate_scale=4), None)
    np.testing.assert_array_equal(fast, slow / 4)
    np.testing.assert_array_equal(scaled, fast)


class TestTraceTimes:
    def times(self, declare: Declare, **changes: Any) -> list[float]:
        trace = {"format": "azure", "path": "trace.csv"}
        spec = declare(**{"requests": None, "arrivals": {"kind": "trace"}, "trace": trace} | changes)
        times: list[float] = arrival_times(spec, TRACED).tolist()
        return times

    def test_are_the_trace_s(self, declare: Declare) -> None:
        assert self.times(declare) == [0, 1, 1, 4, 10]

    def test_end_with_the_trace_where_more_are_asked_for(self, declare: Declare) -> None:
        assert self.times(declare, requests=9) == [0, 1, 1, 4, 10]

    def test_may_be_cut_short(self, declare: Declare) -> None:
        assert self.times(declare, requests=2) == [0, 1]

    def test_are_scaled_before_the_duration_applies(self, declare: Declare) -> None:
        assert self.times(declare, rate_scale=2, duration=3) == [0, 0.5, 0.5, 2]

    def test_lend_their_number_to_another_process(self, declare: Declare) -> None:
        poisson = {"kind": "poisson", "rate": 1}
        spec = {"arrivals": poisson, "prompt": {"kind": "trace"}}
        assert len(self.times(declare, **spec)) == 5
        assert len(self.times(declare, **spec, requests=9)) == 9
