"""A rate sweep: how many requests a second a server keeps up with, and latency on the way there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np

from triptych.bench.api import Progress, bench, load_workload
from triptych.bench.server import Server
from triptych.record import STATUSES, Run, Summary, summarise
from triptych.record.summary import SloResult
from triptych.spec.base import SpecError
from triptych.spec.workload import Closed, Constant, Gamma, Poisson, WorkloadSpec
from triptych.workload import generate

_KEEPS_UP = 0.95
"""Rate of answers over rate of arrivals, and share of requests that finish, below which a server falls
behind."""
_GROWTH = 2.0
_PRECISION = 1.06
"""Ratio of the lowest rate that is too high to the highest that is not, at which a sweep ends."""
_MOST_POINTS = 24
_STEADY = (0.25, 0.9)
"""The part of the requests whose rates are compared: before it the server fills up, after it the longest
answers straggle."""
_FEWEST_REQUESTS = 20
_ALONE = 20
"""Requests that are sent one after the other to find out whether an idle server keeps the bounds."""
_HARDLY_MEET = 0.2
"""Mean requests in flight below which a lower rate changes nothing: four in five have the server to
themselves."""


@dataclass(frozen=True)
class Point:
    """One rate."""

    rate: float
    """Requests/s that were asked for."""
    problem: str
    """Why the server does not keep up; empty: it does."""
    run: Run
    summary: Summary


@dataclass(frozen=True)
class Sweep:
    """All rates that were tried."""

    points: tuple[Point, ...]
    """In the order they were tried."""
    hopeless: str = ""
    """Why no rate, however low, can be kept up with; empty: one can, or it is not known."""

    @property
    def capacity(self) -> float | None:
        """The highest rate that the server kept up with, requests/s; None: there was none."""
        low, _ = _bracket(self.points)
        return low


def sweep(
    workload: WorkloadSpec | str | Path,
    server: Server | str,
    start: float,
    *,
    overrides: Sequence[str] = (),
    warmup: int = 0,
    progress: Callable[[float], Progress] | None = None,
    done: Callable[[Point], None] | None = None,
) -> Sweep:
    """Doubles the rate until the server falls behind, then halves the interval in which it begins to.

    A server keeps up with a rate if it answers as many requests a second as come, 95 % of them finish, and
    every bound of the workload's SLO is met. Every rate has a seed of its own, so that the server finds
    nothing of the rates before in its caches.

    If it does not keep up with the first rate, a few requests are sent one after the other: where these do
    not keep the bounds either, no rate does, and the sweep ends.

    Args:
        workload: as of `bench`; its rate is replaced.
        server: as of `bench`.
        start: the first rate, requests/s.
        overrides: as of `bench`.
        warmup: as of `bench`, before the first rate.
        progress: gives for each rate what `bench` calls; if that ends a run, the sweep ends with it. The rate
            0 stands for requests one after the other.
        done: called after each rate.

    Raises:
        SpecError: as of `bench`, or the workload has no rate.
    """
    file = workload if isinstance(workload, (str, Path)) else None
    if not isinstance(workload, WorkloadSpec):
        workload = load_workload(workload, overrides)
    if not start > 0:
        raise SpecError("--sweep", f"must be a rate above 0, not {start:g}")
    at_rate = _rates_of(workload, file)

    def measure(spec: WorkloadSpec, rate: float) -> Run:
        return bench(
            spec,
            server,
            warmup=0 if points else warmup,
            progress=None if progress is None else progress(rate),
        )

    points: list[Point] = []
    while len(points) < _MOST_POINTS and (rate := _next(points, start)) is not None:
        run = measure(at_rate(rate, len(points)), rate)
        if run.interrupted:
            break
        summary = summarise(run)
        points.append(Point(rate, _problem(run, summary), run, summary))
        if done is not None:
            done(points[-1])
        if points[-1].problem and len(points) == 1:
            alone = measure(_one_by_one(workload), 0.0)
            if alone.interrupted:
                break
            if problem := _unkept(alone, summarise(alone)):
                return Sweep(tuple(points), f"requests one after the other: {problem}")
        if hopeless := _hardly_meet(points[-1]):
            return Sweep(tuple(points), hopeless)
    return Sweep(tuple(points))


def _one_by_one(spec: WorkloadSpec) -> WorkloadSpec:
    """A few of the workload's requests, each with the server to itself."""
    count = _ALONE if spec.requests is None else min(spec.requests, _ALONE)
    update = {"arrivals": Closed(kind="closed", concurrency=1), "max_concurrency": None, "requests": count}
    alone = {**update, "duration": None, "rate_scale": 1.0, "seed": spec.seed + _MOST_POINTS}
    return spec.model_copy(update=alone)


def _hardly_meet(point: Point) -> str:
    """Why a lower rate would change nothing of what is wrong at this one; empty: it may."""
    seconds = point.summary.latency["e2e"].mean
    if not point.problem or seconds is None or point.rate * seconds > _HARDLY_MEET:
        return ""
    return f"at {point.rate:.3g} requests/s, where few requests meet another: {point.problem}"


def _rates_of(spec: WorkloadSpec, file: str | Path | None) -> Callable[[float, int], WorkloadSpec]:
    """A function that gives the workload at a rate, with a seed moved by a number."""
    if isinstance(spec.arrivals, Poisson | Gamma | Constant):
        arrivals = spec.arrivals

        def synthetic(rate: float, number: int) -> WorkloadSpec:
            update = {"arrivals": arrivals.model_copy(update={"rate": rate}), "rate_scale": 1.0}
            return spec.model_copy(update={**update, "seed": spec.seed + number})

        return synthetic
    times = generate(spec.model_copy(update={"rate_scale": 1.0, "duration": None}), file=file).arrival
    if spec.arrivals.kind != "trace" or not np.ptp(times) > 0:
        problem = (
            f"{spec.arrivals.kind} arrivals have no rate to sweep; use poisson, gamma, constant or a trace"
        )
        raise SpecError("arrivals", problem, file=file)
    native = (len(times) - 1) / float(np.ptp(times))

    def traced(rate: float, number: int) -> WorkloadSpec:
        return spec.model_copy(update={"rate_scale": rate / native, "seed": spec.seed + number})

    return traced


def _bracket(points: Sequence[Point]) -> tuple[float | None, float | None]:
    """The highest rate below all that are too high, and the lowest that is too high."""
    high = min((point.rate for point in points if point.problem), default=None)
    low = max(
        (point.rate for point in points if not point.problem and (high is None or point.rate < high)),
        default=None,
    )
    return low, high


def _next(points: Sequence[Point], start: float) -> float | None:
    low, high = _bracket(points)
    if high is None:
        return start if low is None else low * _GROWTH
    if low is None:
        return high / _GROWTH
    return None if high / low <= _PRECISION else sqrt(low * high)


def _problem(run: Run, summary: Summary) -> str:
    """Why the server does not keep up with the rate of a run; empty: it does."""
    if problem := _unkept(run, summary):
        return problem
    came, answered = _rates(run)
    if answered < _KEEPS_UP * came:
        return f"{came:.3g} requests/s come, {answered:.3g}/s are answered"
    return ""


def _unkept(run: Run, summary: Summary) -> str:
    """What was promised to each request and not kept, whatever the rate; empty: nothing."""
    counts = summary.counts
    wanted = counts.requests - counts.aborted
    if counts.finished < _KEEPS_UP * wanted:
        errors = run.meta.get("errors") or {}
        said = f" ({next(iter(errors))})" if errors else ""
        return f"{wanted - counts.finished} of {wanted} requests failed{said}"
    kept = ("met", "no request")
    return next((_missed(result) for result in summary.slo if result.verdict not in kept), "")


def _missed(result: SloResult) -> str:
    name = f"{result.metric.upper()} {result.statistic}"
    if result.grows:
        return f"{name} grows as long as requests come"
    if result.verdict == "uncertain":
        return f"{name} cannot be known"
    found = "infinite, as requests failed" if result.value is None else f"{result.value:.3g} s"
    return f"{name} is {found}, above {result.bound:g} s"


def _rates(run: Run) -> tuple[float, float]:
    """Requests/s that come and that are answered, between the same places in their order.

    Latency does not matter where it does not grow: n answers take as long as n arrivals.
    """
    aborted = run.requests["status"] == STATUSES.index("aborted")
    arrivals = np.sort(run.requests["arrival"][~aborted])
    ends = np.sort(run.requests["end"][run.finished])
    if len(ends) < _FEWEST_REQUESTS:
        problem = f"{len(ends)} requests tell no rate; declare {_FEWEST_REQUESTS} or more, better hundreds"
        raise SpecError("requests", problem)
    first, last = (int(share * (len(ends) - 1)) for share in _STEADY)
    count = last - first
    return count / float(arrivals[last] - arrivals[first]), count / float(ends[last] - ends[first])
