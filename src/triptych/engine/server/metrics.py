"""What /metrics tells: counts and times as the front end sees them, and how busy the worker is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from triptych.engine.messages import Load, Ready

_LATENCY = (0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_TPOT = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
_IDLE = Load(0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class _Total:
    """A count that a worker keeps since its own start."""

    name: str
    help: str
    field: str
    labels: tuple[tuple[str, str], ...] = ()


_TOTALS = (
    _Total("triptych_preemptions", "Requests put back into the queue for want of KV blocks.", "preemptions"),
    _Total("triptych_iterations", "Batches that the worker ran.", "iterations"),
    _Total("triptych_worker_prompt_tokens", "Prompt tokens computed, some again.", "prompt_tokens"),
    _Total("triptych_worker_generated_tokens", "Tokens that the worker chose.", "generated_tokens"),
    *(
        _Total(
            "triptych_phase_seconds",
            "Time of iterations that ran images, or prompts and no images, or only decodes.",
            f"{phase}_seconds",
            (("phase", phase),),
        )
        for phase in ("encode", "prefill", "decode")
    ),
)


class _Worker(Collector):
    """How busy the worker is; its totals go on when it is replaced."""

    def __init__(self) -> None:
        self.load = _IDLE
        self._before = dict.fromkeys((total.field for total in _TOTALS), 0.0)
        """Totals of the workers that are gone."""

    def replaced(self, kv_blocks: int) -> None:
        for name in self._before:
            self._before[name] += getattr(self.load, name)
        self.load = msgspec.structs.replace(_IDLE, kv_blocks=kv_blocks)

    def collect(self) -> Iterator[Metric]:
        load = self.load
        waiting = {
            "encode": load.unencoded,
            "prefill": load.waiting - load.unencoded,
            "decode": 0,  # one instance has no such queue: who has a first token decodes in the next batch
        }
        running = {
            "encode": load.encoding,
            "prefill": load.running - load.decoding,
            "decode": load.decoding,
        }
        yield _by_phase("triptych_requests_waiting", "Requests queued in the scheduler.", waiting)
        yield _by_phase("triptych_requests_running", "Requests that the worker is at work on.", running)
        gauges = (
            ("triptych_kv_blocks_used", "KV blocks in use.", load.kv_used),
            ("triptych_kv_blocks", "KV blocks there are.", load.kv_blocks),
            ("triptych_kv_usage", "Share of KV blocks in use.", load.kv_used / max(load.kv_blocks, 1)),
        )
        for name, what, value in gauges:
            yield GaugeMetricFamily(name, what, value=value)
        families: dict[str, CounterMetricFamily] = {}
        for total in _TOTALS:
            labels, values = [name for name, _ in total.labels], [value for _, value in total.labels]
            family = families.setdefault(
                total.name, CounterMetricFamily(total.name, total.help, labels=labels)
            )
            family.add_metric(values, self._before[total.field] + getattr(load, total.field))
        yield from families.values()


def _by_phase(name: str, what: str, values: Mapping[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, what, labels=["phase"])
    for phase, value in values.items():
        family.add_metric([phase], value)
    return family


class Metrics:
    """All figures of one server."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._worker = _Worker()
        registry.register(self._worker)
        self._worker_pid = 0
        ProcessCollector(registry=registry)
        ProcessCollector("triptych_worker", pid=lambda: self._worker_pid, registry=registry)
        self.answers = Counter(
            "triptych_http_responses",
            "Answers by route and status.",
            ["route", "status"],
            registry=registry,
        )
        self.ended = Counter(
            "triptych_requests",
            "Generation requests by how they ended (aborted: the client went).",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("finished", "refused", "failed", "aborted", "timed_out"):
            self.ended.labels(outcome)
        self.in_flight = Gauge(
            "triptych_requests_in_flight", "Generation requests being answered.", registry=registry
        )
        self.prompt_tokens = Counter(
            "triptych_prompt_tokens", "Prompt tokens of answered requests.", registry=registry
        )
        self.cached_tokens = Counter(
            "triptych_cached_prompt_tokens", "Of these, tokens found in the prefix cache.", registry=registry
        )
        self.generated_tokens = Counter("triptych_generated_tokens", "Tokens of answers.", registry=registry)
        self.restarts = Counter(
            "triptych_worker_restarts", "Workers that died and were replaced.", registry=registry
        )
        self.ttft = Histogram(
            "triptych_ttft_seconds",
            "From arrival to the first token.",
            buckets=_LATENCY,
            registry=registry,
        )
        self.tpot = Histogram(
            "triptych_tpot_seconds",
            "Mean time per token after the first.",
            buckets=_TPOT,
            registry=registry,
        )
        self.e2e = Histogram(
            "triptych_e2e_seconds",
            "From arrival to the last token.",
            buckets=_LATENCY,
            registry=registry,
        )

    def worker_started(self, ready: Ready) -> None:
        """A new worker counts from zero."""
        self._worker.replaced(ready.kv_blocks)
        self._worker_pid = ready.pid

    def loaded(self, load: Load) -> None:
        """How busy the worker is now."""
        self._worker.load = load

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)
