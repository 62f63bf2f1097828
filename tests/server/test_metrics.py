"""What /metrics says of the worker, from what the worker says of itself."""

from __future__ import annotations

from typing import Any

from triptych.engine.messages import Load, Ready
from triptych.engine.server.metrics import Metrics


def load(**fields: Any) -> Load:
    idle: dict[str, Any] = dict.fromkeys(Load.__struct_fields__, 0)
    return Load(**{**idle, "kv_blocks": 100, **fields})


def values(metrics: Metrics, name: str) -> dict[str, float]:
    """Labels -> value."""
    lines = [
        line for line in metrics.text().decode().splitlines() if line.startswith((f"{name}{{", f"{name} "))
    ]
    return {line.removeprefix(name).rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_requests_that_wait_and_that_run_are_told_by_phase() -> None:
    metrics = Metrics()
    metrics.loaded(load(waiting=5, unencoded=2, encoding=1, running=7, decoding=4))
    assert values(metrics, "triptych_requests_waiting") == {
        '{phase="encode"}': 2,
        '{phase="prefill"}': 3,
        '{phase="decode"}': 0,
    }
    assert values(metrics, "triptych_requests_running") == {
        '{phase="encode"}': 1,
        '{phase="prefill"}': 3,
        '{phase="decode"}': 4,
    }


def test_every_phase_is_there_before_anything_has_happened() -> None:
    for name in ("triptych_requests_waiting", "triptych_requests_running", "triptych_phase_seconds_total"):
        assert set(values(Metrics(), name)) == {
            '{phase="encode"}',
            '{phase="prefill"}',
            '{phase="decode"}',
        }


def test_totals_go_on_when_the_worker_is_replaced() -> None:
    metrics = Metrics()
    metrics.loaded(load(iterations=5, prefill_seconds=1.5, running=3))
    metrics.worker_started(Ready(1, 100, 50, 16))
    metrics.loaded(load(iterations=2, prefill_seconds=0.25, kv_blocks=50))
    assert values(metrics, "triptych_iterations_total") == {"": 7}
    assert values(metrics, "triptych_phase_seconds_total")['{phase="prefill"}'] == 1.75
    assert sum(values(metrics, "triptych_requests_running").values()) == 0
    assert values(metrics, "triptych_kv_blocks") == {"": 50}
