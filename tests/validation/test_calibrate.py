"""A calibration gives back the coefficients that a run was made with, and says what a run cannot tell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tests.record import build

from triptych import simulate
from triptych.plan import plan_pools
from triptych.record import LaneLog, Run, write_run
from triptych.spec.base import SpecError
from triptych.spec.calibration import Calibration, Factors
from triptych.spec.deployment import Deployment
from triptych.spec.workload import WorkloadSpec
from triptych.validation.calibrate import ALL, Calibrated, calibrate, host_time
from triptych.validation.calibration_delays import delays, link_share, paired
from triptych.validation.calibration_fit import CLASSES, Observed, fit, relative_errors
from triptych.validation.calibration_report import (
    calibrate_and_report,
    print_calibration,
    write_calibration,
)

NOISE = 0.03
HALF_WITHIN = 0.6745 * NOISE
"""Median of the unsigned value of normal noise."""
DEPLOYMENT = """\
model: Qwen2.5-VL-7B
pools:
  all:
    phases: [encode, prefill, decode]
    device: A100-80GB
    parallel: {tensor: 2}
    scheduler: {policy: unified, max_batch: 64, max_tokens: 2048}
"""
WORKLOAD: dict[str, Any] = {
    "requests": 60,
    "arrivals": {"kind": "poisson", "rate": 6},
    "prompt": {"kind": "uniform", "low": 100, "high": 3000},
    "output": {"kind": "uniform", "low": 10, "high": 60},
    "images": {"share": 0.4, "count": {"low": 1, "high": 2}, "sizes": [{"width": 448, "height": 448}]},
}
TRUE = Calibration(
    iteration=0.003,
    sequence=0.0004,
    image=0.02,
    factors=Factors(matmul=1.4, attention=2.5, memory=0.7, network=1.8),
)

seconds = st.floats(0, 0.01)
calibrations = st.builds(
    Calibration,
    iteration=seconds,
    sequence=st.floats(0, 0.002),
    image=st.floats(0, 0.1),
    factors=st.builds(Factors, **{name: st.floats(0.4, 3) for name in CLASSES}),
)


def simulated(deployment: str = DEPLOYMENT, **workload: Any) -> Run:
    declared = Deployment.parse(__import__("yaml").safe_load(deployment))
    return simulate(declared, WorkloadSpec.parse({**WORKLOAD, **workload}), jump=False)


RUN = simulated()


def observed(run: Run = RUN, deployment: str = DEPLOYMENT) -> Observed:
    """The batches of a run, taking as long as is predicted."""
    (plan,) = plan_pools(Deployment.parse(__import__("yaml").safe_load(deployment)))
    (lane,) = run.lanes
    host = host_time(plan.cost)
    ones = np.ones(len(lane))
    return Observed(
        seconds=lane.seconds,
        iterations=lane["iterations"],
        sampled=lane["sampled"],
        images=lane["images"],
        predicted=plan.cost.breakdown(lane.columns)[0],
        host=(host.iteration * ones, host.sequence * ones),
    )


OBSERVED = observed()


def measured(by: Calibration, of: Observed = OBSERVED, *, noise: float = NOISE, seed: int = 0) -> Observed:
    """The same batches, taking as long as a calibration says, but for noise."""
    factor = 1 + noise * np.random.default_rng(seed).standard_normal(len(of))
    return replace(of, seconds=of.calibrated(by) * factor)


def halves(of: Observed) -> tuple[Observed, Observed]:
    second = np.arange(len(of)) // 20 % 2 == 1
    return of.take(~second), of.take(second)
