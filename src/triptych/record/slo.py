"""A run held to its SLO: every bound by itself, and every request by all of them.

A request that the service failed (it timed out, was rejected or broken off) is worse than any bound on each
metric that applies to it, whatever of it was in time; in a mean as well, which then has no value. One whose
client went away by itself counts with what it had. TPOT and ITL do not apply to answers of one token.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import inf, isfinite, nan

import numpy as np
import numpy.typing as npt

from triptych.record.columns import DERIVED_REQUEST_COLUMNS
from triptych.record.logs import Floats, Ints
from triptych.record.run import STATUSES, Bound, Run
from triptych.record.statistics import percentile_with_infinities
from triptych.record.summary import Overload, SloResult, Verdict
from triptych.record.usage import ratio

_FAILED = [STATUSES.index(name) for name in ("timed_out", "rejected")]
_OF_LATER_TOKENS = ("tpot", "itl")

Masks = npt.NDArray[np.bool_]


def failed(run: Run) -> Masks:
    """Which requests the service failed, shape (requests,)."""
    return np.isin(run.requests["status"], _FAILED)


def judged(run: Run) -> Masks:
    """Which requests came to an end that is the service's doing: finished or failed, shape (requests,)."""
    return run.finished | failed(run)


def within_slo(run: Run) -> Masks:
    """Which requests finished within every bound, shape (requests,).

    Of several bounds on TTFT, TPOT or E2E the widest counts for a single request, whatever their statistics:
    a median of 1 s beside a P99 of 3 s asks one request for 3 s. A request has many inter-token latencies:
    its own mean or percentile of them is held to each bound on that. A metric that a client could not see is
    not within its bound.
    """
    limits: dict[tuple[str, str], float] = {}
    for metric, statistic, bound in run.slo:
        of_many = statistic if metric == "itl" else ""
        limits[metric, of_many] = max(bound, limits.get((metric, of_many), 0.0))
    good = run.finished
    for (metric, statistic), limit in limits.items():
        good = good & ((_of_request(run, metric, statistic) <= limit) | ~_applies(run, metric))
    return good


def against_slo(run: Run, overload: Overload | None) -> tuple[SloResult, ...]:
    """Holds a run to each of its bounds; what only may grow as long as requests come is met by none.

    Args:
        run: with all its batches.
        overload: of the run, if there is one.
    """
    growing = () if overload is None else overload.metrics
    sure = overload is not None and overload.certain
    return tuple(
        _against(run, *bound, grows=sure and bound[0] in growing, may_grow=bound[0] in growing)
        for bound in run.slo
    )


def slo_values(run: Run, growing: Collection[str], bounds: Sequence[Bound]) -> list[float]:
    """The statistic of each bound, seconds; infinite where it grows or requests failed, NaN of no request."""
    return [inf if metric in growing else _sample(run, metric).statistic(name) for metric, name, _ in bounds]


def _against(
    run: Run, metric: str, statistic: str, bound: float, *, grows: bool, may_grow: bool
) -> SloResult:
    sample = _sample(run, metric)
    value = sample.statistic(statistic)
    low = inf if grows else sample.statistic(statistic, unknown_as=0.0)
    high = inf if grows else value
    interval = _interval(run, metric, statistic)
    if interval is not None:
        low, high = (inf if end is None else end for end in interval)
    if may_grow:
        high = inf
    return SloResult(
        metric=metric,
        statistic=statistic,
        bound=bound,
        value=value if isfinite(value) else None,
        share=ratio(int(sample.counts[sample.values <= bound].sum()), sample.size),
        grows=grows,
        interval=interval,
        verdict=_verdict(low, high, bound) if sample.size else "no request",
    )


def _interval(run: Run, metric: str, statistic: str) -> tuple[float | None, float | None] | None:
    """90% interval of the statistic that the bound names, s; None: the run was predicted without one."""
    ends = run.meta.get("interval", {}).get("slo", {}).get(f"{metric}.{statistic}")
    return None if ends is None else (ends[0], ends[1])


def _verdict(low: float, high: float, bound: float) -> Verdict:
    if high <= bound:
        return "met"
    return "missed" if low > bound else "uncertain"


@dataclass(frozen=True)
class _Sample:
    """What a bound is held against: values that are known, each so many times, and those that are not."""

    values: Floats
    counts: Ints
    lost: int
    """How many values belong to failed requests: they lie beyond any bound."""
    unknown: int
    """A client could not see them."""

    @property
    def size(self) -> int:
        return int(self.counts.sum()) + self.lost + self.unknown

    def statistic(self, name: str, *, unknown_as: float = inf) -> float:
        values, counts = self.values, self.counts
        infinite = self.lost
        if unknown_as < inf:
            values = np.append(values, unknown_as)
            counts = np.append(counts, self.unknown)
        else:
            infinite += self.unknown
        if name == "mean":
            total = int(counts.sum())
            return inf if infinite else float((values * counts).sum() / total) if total else nan
        return percentile_with_infinities(values, counts, infinite, float(name.removeprefix("p")))


def _sample(run: Run, metric: str) -> _Sample:
    lost = failed(run) & _applies(run, metric)
    unknown = run.finished & _applies(run, metric) & np.isnan(_of_request(run, metric, "p50"))
    if metric == "itl":
        values, counts = run.token_gaps.distribution(~failed(run))
        gaps_of_lost = int((run.requests["output_tokens"][lost] - 1).sum())
        gaps_unknown = int((run.requests["generated_tokens"][unknown] - 1).sum())
        return _Sample(values, counts, gaps_of_lost, gaps_unknown)
    values = run.column(metric)[~failed(run)]
    values = values[~np.isnan(values)]
    return _Sample(values, np.ones(len(values), np.int64), int(lost.sum()), int(unknown.sum()))


def _applies(run: Run, metric: str) -> Masks:
    """Which requests the metric can be asked of, shape (requests,): a failed one by what it asked for."""
    if metric not in _OF_LATER_TOKENS:
        return np.ones(len(run), dtype=bool)
    requests = run.requests
    tokens = np.where(run.finished, requests["generated_tokens"], requests["output_tokens"])
    return np.asarray(tokens > 1)


def _of_request(run: Run, metric: str, statistic: str) -> Floats:
    """The metric of each request, shape (requests,); of its inter-token latencies a statistic."""
    if metric != "itl":
        return run.column(metric)
    if statistic == "mean":  # the gaps of a request add up to the time that TPOT divides
        return run.column("tpot")
    if f"itl_{statistic}" in DERIVED_REQUEST_COLUMNS:
        return run.column(f"itl_{statistic}")
    (values,) = run.token_gaps.percentiles([float(statistic.removeprefix("p")) / 100])
    return values
