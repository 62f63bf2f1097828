"""Triptych: plan, predict and serve LLM inference that is split by phase (encode, prefill, decode).

>>> import triptych
>>> files = "examples/deployments/mixed.yaml", "examples/workloads/vision-chat.yaml"
>>> run = triptych.simulate(*files, overrides=["workload.requests=20"])
>>> summary = triptych.summarise(run)
>>> summary.counts.finished, summary.latency["ttft"].p99 < 1
(20, True)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from triptych.record import Run, read_run, summarise, write_run
    from triptych.simulation import simulate
    from triptych.spec.base import SpecError
    from triptych.spec.deployment import Deployment
    from triptych.spec.workload import WorkloadSpec
    from triptych.version import __version__

# What is asked for is imported when it is asked for, so that the command line starts at once.
_HOMES = {
    "Deployment": "triptych.spec.deployment",
    "Run": "triptych.record",
    "SpecError": "triptych.spec.base",
    "WorkloadSpec": "triptych.spec.workload",
    "__version__": "triptych.version",
    "read_run": "triptych.record",
    "simulate": "triptych.simulation",
    "summarise": "triptych.record",
    "write_run": "triptych.record",
}

__all__ = [
    "Deployment",
    "Run",
    "SpecError",
    "WorkloadSpec",
    "__version__",
    "read_run",
    "simulate",
    "summarise",
    "write_run",
]


def __getattr__(name: str) -> Any:
    """Imports a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'triptych' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names, those not imported yet included."""
    return sorted(__all__)
