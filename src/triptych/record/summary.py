"""The summary of a run: what `summary.json` holds. Plain numbers, None (JSON null) where there is none.

The JSON has one key a field, under the field's name; `Summary.from_dict` reads it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

Verdict = Literal["met", "missed", "uncertain", "no request"]
"""Verdict on a bound. Uncertain: what is known of the run allows both. No request: the metric applies to
none."""

SURE = 0.99
"""Probability of overload from which on it is taken for a fact."""


@dataclass(frozen=True)
class Distribution:
    """One quantity over requests (or tokens), in its base unit. Percentiles are linearly interpolated."""

    count: int
    """Values it is made of."""
    mean: float | None
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    p99_9: float | None
    max: float | None

    def at(self, statistic: str) -> float | None:
        """The value of `mean`, `p50`, `p90`, `p95`, `p99` or `p99.9`."""
        value: float | None = getattr(self, statistic.replace(".", "_"))
        return value


@dataclass(frozen=True)
class Counts:
    """What became of the requests."""

    requests: int
    """That came."""
    finished: int
    aborted: int
    """Their client went away."""
    timed_out: int
    rejected: int
    """Could never have been served, or were refused or broken off by the server."""
    unfinished: int
    """Waiting or running when the run ended."""
    never_came: int
    """Of the workload, had not come when the run was interrupted."""
    preemptions: int
    """Times a request lost its KV and had to recompute it."""
    prompt_tokens: int
    """Of requests that got a token."""
    output_tokens: int
    """Delivered."""
    cached_tokens: int
    """Prompt tokens found in a prefix cache."""
    cached_share: float | None
    """Of `prompt_tokens`."""
    rejected_as: Mapping[str, int]
    """Why requests were rejected -> how many, as far as the record tells."""
    image_tokens: int = 0
    """Those of the prompt tokens that come from images."""


@dataclass(frozen=True)
class Throughput:
    """Rates over the horizon, per second."""

    arrival_rate: float | None
    """Requests/s from the first arrival to the last; None if they came at once."""
    qps: float
    """Finished requests/s."""
    output_tokens: float
    total_tokens: float
    """Prompt and output tokens of requests that got a token."""
    goodput: float | None
    """Requests/s that finished within all bounds of the SLO (DistServe); None without an SLO."""
    goodput_share: float | None
    """Share of the requests that finished or failed which finished within all bounds."""


@dataclass(frozen=True)
class SloResult:
    """One bound of the SLO."""

    metric: str
    statistic: str
    bound: float
    """Seconds."""
    value: float | None
    """Seconds; None if the metric applies to no request, or so many failed that it is infinite."""
    share: float | None
    """Share of the requests that the metric applies to (for ITL, of their gaps) within the bound. Failed
    requests are not."""
    grows: bool
    """The value tells how long the trace is: a wait that grew as long as requests came is part of it."""
    interval: tuple[float | None, float | None] | None
    """Seconds: the prediction interval of the value. None within it: without limit, as it grows there or too
    many requests fail. None: the run was measured, or predicted without an interval."""
    verdict: Verdict
    """Uncertain if the bound lies within the interval. Without one, a bound on what grows is missed."""


@dataclass(frozen=True)
class PhaseQueue:
    """A queue that grew as long as requests came."""

    phase: str
    """What is waited for: encode, embeddings (to be where prefill is), prefill or decode. `system`: no queue
    grew, but the number of requests under way did, running or not."""
    growth: float
    """Requests/s by which it became longer."""
    length: int
    """Requests in it when the last one came."""


@dataclass(frozen=True)
class Overload:
    """Arrivals outpaced service: latencies are as long as the trace lets them get."""

    arrival_rate: float
    """Requests/s that come for the queue that grows fastest: as declared, or else as they came."""
    served_rate: float
    """Requests/s that left that queue while it was not empty: its capacity, with those that gave up."""
    sure: float
    """Probability that more come than can be served, from 0.95 to 1; below, it is no overload."""
    drain_seconds: float | None
    """Time to work off the queue that the last arrival leaves behind; None if nothing is served."""
    queues: tuple[PhaseQueue, ...]
    """Fastest growing first."""
    metrics: tuple[str, ...]
    """Names in `Summary.latency` of what such a wait is part of: these only tell how long the trace is."""

    @property
    def certain(self) -> bool:
        """Whether it is as good as a fact."""
        return self.sure >= SURE


@dataclass(frozen=True)
class Usage:
    """What an instance, or all of a pool's, did over the horizon.

    A lane is busy while a batch runs on it; an instance is busy for the mean over its lanes.
    """

    devices: int
    batches: int
    iterations: int
    mean_batch: float | None
    """Members of an iteration: requests that decode or prefill, and images that are encoded."""
    tokens_per_iteration: float | None
    """Prompt tokens computed and tokens decoded."""
    busy_seconds: float
    idle_seconds: float
    busy_share: float
    kv_mean_share: float | None
    """Of KV blocks, the mean over busy time."""
    kv_peak_share: float | None
    memory_peak_share: float | None
    """Of device memory: weights, what is set aside for activations and image embeddings, and KV at its peak;
    every device taken to be as full as the fullest of its instance."""
    mfu: float | None
    """FLOP/s while busy over peak FLOP/s (PaLM, Chowdhery et al. 2022)."""
    mbu: float | None
    """Bytes/s while busy over peak bandwidth (model bandwidth utilisation, Databricks 2023)."""
    energy_joules: float
    dollars: float
    dollars_per_hour: float


@dataclass(frozen=True)
class InstanceUsage:
    """One instance."""

    id: int
    pool: str
    usage: Usage


@dataclass(frozen=True)
class PoolUsage:
    """All instances of one pool together."""

    pool: str
    phases: tuple[str, ...]
    device: str
    instances: int
    usage: Usage
    weights_bytes: float = 0.0
    """On all devices of one instance."""
    kv_bytes: float = 0.0
    """Room for KV in one instance."""
    kv_tokens: int = 0
    """That it holds."""
    requests_that_fit: float | None = None
    """Average requests of the workload whose KV fits into one instance at its largest."""


@dataclass(frozen=True)
class Cost:
    """What the cluster took, over the horizon."""

    devices: int
    energy_joules: float
    joules_per_output_token: float | None
    dollars: float
    dollars_per_hour: float
    dollars_per_million_output_tokens: float | None
    qps_per_dollar_hour: float | None
    """Finished requests/s for each dollar per hour."""


@dataclass(frozen=True)
class Summary:
    """All metrics of a run."""

    producer: str
    interrupted: bool
    horizon: float
    """Seconds."""
    counts: Counts
    throughput: Throughput
    latency: Mapping[str, Distribution]
    """By name: ttft, tpot, itl (all gaps of all requests), e2e, e2e_per_token, encode_queue, prefill_queue,
    decode_queue, transfer_seconds."""
    slo: tuple[SloResult, ...]
    overload: Overload | None
    settled: bool
    """False if requests became ever more until the last one came, or those of the first half had not ended:
    latencies are those of so short a trace, and would be others in a longer one."""
    cost: Cost | None
    """None where the instances are not known (bench)."""
    pools: tuple[PoolUsage, ...]
    instances: tuple[InstanceUsage, ...]
    meta: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The summary of what `to_dict` gave.

        Raises:
            KeyError, TypeError: it is something else.
        """
        values = {field.name: data[field.name] for field in fields(cls)}
        overload, cost = values["overload"], values["cost"]
        if overload is not None:
            queues = tuple(PhaseQueue(**queue) for queue in overload["queues"])
            overload = Overload(**{**overload, "queues": queues, "metrics": tuple(overload["metrics"])})
        values |= {
            "counts": Counts(**values["counts"]),
            "throughput": Throughput(**values["throughput"]),
            "latency": {name: Distribution(**part) for name, part in values["latency"].items()},
            "slo": tuple(_slo_result(part) for part in values["slo"]),
            "overload": overload,
            "cost": None if cost is None else Cost(**cost),
            "pools": tuple(
                PoolUsage(**{**part, "phases": tuple(part["phases"]), "usage": Usage(**part["usage"])})
                for part in values["pools"]
            ),
            "instances": tuple(
                InstanceUsage(**{**part, "usage": Usage(**part["usage"])}) for part in values["instances"]
            ),
        }
        return cls(**values)


def _slo_result(data: Mapping[str, Any]) -> SloResult:
    interval = data["interval"]
    return SloResult(**{**data, "interval": None if interval is None else tuple(interval)})
