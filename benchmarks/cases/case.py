"""One engine under one load, measured or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from triptych.spec.deployment import Deployment
from triptych.workload import Requests

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """What ran, what it was asked for, and what came of it."""

    name: str
    deployment: Deployment
    requests: Requests
    measured: Mapping[str, Floats] = field(default_factory=dict)
    """ttft, tpot, e2e of each request in seconds; or of all as one mean. Empty: not measured."""
    per_request: bool = True
    horizon: float | None = None
    """Seconds from the first arrival to the last token, measured."""
    timeseries: Path | None = None
    """Running and waiting requests over time, measured."""
    skip: int = 0
    """Requests at the begin that are left out of the prediction: a closed loop has to settle."""
    others: Mapping[str, float] = field(default_factory=dict)
    """Errors that others publish of the same run, `metric.statistic` -> share."""


@dataclass(frozen=True)
class Refused:
    """A case that Triptych cannot run, and why."""

    name: str
    reason: str
    count: int = 1
