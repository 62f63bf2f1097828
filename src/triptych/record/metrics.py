"""The one place where a run's metrics are defined.

Latency  TTFT, TPOT, E2E of each request: `latency.py`. ITL: every gap between two tokens, `itl.py`.
Goodput  requests/s that finish within every bound of the SLO (DistServe, Zhong et al., OSDI 2024): `slo.py`.
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
from triptych.record.rejections import rejections
from triptych.record.run import STATUSES, Run
from triptych.record.slo import against_slo, judged, within_slo
from triptych.record.statistics import counted_distribution, distribution
from triptych.record.summary import (
    Cost,
    Counts,
    Distribution,
    PoolUsage,
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
    instances, pools = usages(run.instances, run.lanes, run.horizon, *_lengths(run, came))
    overload, settled = find_overload(run.requests, run.meta.get("declared_rate"))
    return Summary(
        producer=run.producer,
        interrupted=run.interrupted,
        horizon=run.horizon,
        counts=counts,
        throughput=_throughput(run, counts, came),
        latency=latencies(run),
        slo=against_slo(run, overload),
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
    answered = ~np.isnan(run.requests["first_token"])
    prompt = int(run.requests["prompt_tokens"][answered].sum())
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
        image_tokens=int(run.requests["image_tokens"][answered].sum()),
        output_tokens=int(run.requests["generated_tokens"].sum()),
        cached_tokens=cached,
        cached_share=ratio(cached, prompt),
        rejected_as=rejections(run),
    )


def _lengths(run: Run, came: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Mean prompt and output tokens of requests that finished, or as all accepted ones ask if none did."""
    status = run.requests["status"]
    finished = came & (status == STATUSES.index("finished"))
    some = finished if finished.any() else came & (status != STATUSES.index("rejected"))
    if not some.any():
        return 0.0, 0.0
    output = run.requests["generated_tokens" if finished.any() else "output_tokens"]
    return float(run.requests["prompt_tokens"][some].mean()), float(output[some].mean())


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
        goodput_share=None if good is None else ratio(good, int(judged(run).sum())),
    )


def latencies(run: Run) -> dict[str, Distribution]:
    """The distribution of each latency, by its name in `Summary.latency`."""
    latency = {name: distribution(run.column(name)) for name in _PER_REQUEST[:2]}
    latency["itl"] = counted_distribution(*run.token_gaps.distribution())
    latency |= {name: distribution(run.column(name)) for name in _PER_REQUEST[2:]}
    got_through = ~np.isnan(run.requests["first_token"])
    latency["transfer_seconds"] = distribution(run.requests["transfer_seconds"][got_through])
    return latency


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
