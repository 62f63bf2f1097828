"""The one place where a run's metrics are defined.

Latency  TTFT, TPOT, E2E of each request: `latency.py`. ITL: every gap between two tokens, `itl.py`.
Goodput  requests/s that finish within every bound of the SLO (DistServe, Zhong et al., OSDI 2024).
MFU      FLOP/s over peak FLOP/s (PaLM, Chowdhery et al., 2022), while an instance is busy: `usage.py`.
MBU      bytes/s over peak bandwidth, likewise ("LLM Inference Performance Engineering", Databricks, 2023).
Energy   idle power all the time, and more by utilisation: `power.py`.
Cost     device-hours over the whole horizon, used or not.
Overload, and whether latencies had settled: `overload.py`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from triptych.record.overload import find_overload
from triptych.record.run import STATUSES, Run
from triptych.record.statistics import counted_distribution, distribution, percentile_with_infinities
from triptych.record.summary import (
    Cost,
    Counts,
    Distribution,
    PoolUsage,
    SloResult,
    Summary,
    Throughput,
)
from triptych.record.usage import ratio, usages

_PER_REQUEST = ("ttft", "tpot", "e2e", "e2e_per_token", "encode_queue", "prefill_queue", "decode_queue")


def summarise(run: Run) -> Summary:
    """All metrics of a run.

    Raises:
        ValueError: the run was read from a folder without all its batches; its summary is in that folder.
    """
    if run.batch_log != "all":
        raise ValueError("not all batches of the run were kept; use read_summary on its folder")
    came = ~np.isnan(run.requests["arrival"])
    counts = _counts(run, came)
    instances, pools = usages(run.instances, run.lanes, run.horizon)
    overload, settled = find_overload(run.requests)
    return Summary(
        producer=run.producer,
        interrupted=run.interrupted,
        horizon=run.horizon,
        counts=counts,
        throughput=_throughput(run, counts, came),
        latency=_latency(run),
        slo=tuple(_against(run, *bound) for bound in run.slo),
        overload=overload,
        settled=settled,
        cost=_cost(pools, counts, run.horizon) if pools else None,
        pools=pools,
        instances=instances,
        meta=dict(run.meta),
    )


def _counts(run: Run, came: npt.NDArray[np.bool_]) -> Counts:
    by_status = np.bincount(run.requests["status"][came], minlength=len(STATUSES))
    of = dict(zip(STATUSES, by_status.tolist(), strict=True))
    prompt = int(run.requests["prompt_tokens"][~np.isnan(run.requests["first_token"])].sum())
    cached = int(run.requests["cached_tokens"].sum())
    return Counts(
        requests=int(came.sum()),
        finished=of["finished"],
        aborted=of["aborted"],
        timed_out=of["timed_out"],
        rejected=of["rejected"],
        unfinished=of["waiting"] + of["running"] + of["transferring"],
        never_came=int((~came).sum()),
        preemptions=int(run.requests["preemptions"].sum()),
        prompt_tokens=prompt,
        output_tokens=int(run.requests["generated_tokens"].sum()),
        cached_tokens=cached,
        cached_share=ratio(cached, prompt),
    )


def _throughput(run: Run, counts: Counts, came: npt.NDArray[np.bool_]) -> Throughput:
    arrivals = run.requests["arrival"][came]
    window = float(np.ptp(arrivals)) if len(arrivals) else 0.0
    good = int(within_slo(run).sum()) if run.slo else None

    def rate(count: float) -> float:
        return count / run.horizon if run.horizon > 0 else 0.0

    return Throughput(
        arrival_rate=ratio(len(arrivals) - 1, window),
        qps=rate(counts.finished),
        output_tokens=rate(counts.output_tokens),
        total_tokens=rate(counts.prompt_tokens + counts.output_tokens),
        goodput=None if good is None else rate(good),
        goodput_share=None if good is None else ratio(good, counts.requests),
    )


def _latency(run: Run) -> dict[str, Distribution]:
    latency = {name: distribution(run.column(name)) for name in _PER_REQUEST[:2]}
    latency["itl"] = counted_distribution(*run.token_gaps.distribution())
    latency |= {name: distribution(run.column(name)) for name in _PER_REQUEST[2:]}
    got_through = ~np.isnan(run.requests["first_token"])
    latency["transfer_seconds"] = distribution(run.requests["transfer_seconds"][got_through])
    return latency


def within_slo(run: Run) -> npt.NDArray[np.bool_]:
    """Which requests finished within every bound, shape (requests,).

    Of several bounds on one metric the widest counts for a single request, whatever their statistics: a
    median of 1 s beside a P99 of 3 s asks one request for 3 s. A request of one token has no TPOT and breaks
    no bound on it.
    """
    limits: dict[str, float] = {}
    for metric, _, bound in run.slo:
        limits[metric] = max(bound, limits.get(metric, 0.0))
    good = run.finished
    for metric, limit in limits.items():
        good = good & ~(run.column(metric) > limit)
    return good


def _against(run: Run, metric: str, statistic: str, bound: float) -> SloResult:
    """Holds a run to one bound.

    A request that timed out or was rejected before it had its TTFT or E2E is infinitely late in
    percentiles (not in the mean, which it would make useless); one whose client went away does not
    count.
    """
    values = run.column(metric)
    values = values[~np.isnan(values)]
    given_up = 0
    if metric != "tpot":
        lost = [STATUSES.index(name) for name in ("timed_out", "rejected")]
        given_up = int((np.isin(run.requests["status"], lost) & np.isnan(run.column(metric))).sum())
    if statistic == "mean":
        value = float(values.mean()) if len(values) else float("nan")
    else:
        value = percentile_with_infinities(values, given_up, float(statistic.removeprefix("p")))
    return SloResult(
        metric=metric,
        statistic=statistic,
        bound=bound,
        value=value if np.isfinite(value) else None,
        share=ratio(int((values <= bound).sum()), len(values) + given_up),
        met=value <= bound,
    )


def _cost(pools: tuple[PoolUsage, ...], counts: Counts, horizon: float) -> Cost:
    joules = sum(pool.usage.energy_joules for pool in pools)
    dollars = sum(pool.usage.dollars for pool in pools)
    dollars_per_hour = sum(pool.usage.dollars_per_hour for pool in pools)
    per_token = ratio(dollars, counts.output_tokens)
    return Cost(
        devices=sum(pool.usage.devices for pool in pools),
        energy_joules=joules,
        joules_per_output_token=ratio(joules, counts.output_tokens),
        dollars=dollars,
        dollars_per_hour=dollars_per_hour,
        dollars_per_million_output_tokens=None if per_token is None else per_token * 1e6,
        qps_per_dollar_hour=ratio(ratio(counts.finished, horizon) or 0.0, dollars_per_hour),
    )
