"""Helpers that several tests of workloads use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from triptych.spec.workload import WorkloadSpec
from triptych.workload import Requests

DATA = Path(__file__).parents[2].parent / "shared/data/traces"


@pytest.fixture
def declare() -> Callable[..., WorkloadSpec]:
    """A small workload with some fields declared otherwise."""

    def declared(**changes: Any) -> WorkloadSpec:
        plain = {
            "requests": 1000,
            "arrivals": {"kind": "poisson", "rate": 2},
            "prompt": {"kind": "uniform", "low": 10, "high": 500},
            "output": {"kind": "log-normal", "median": 100, "sigma": 0.8},
        }
        return WorkloadSpec.parse({**plain, **changes})

    return declared


@pytest.fixture
def differing() -> Callable[[Requests, Requests], list[str]]:
    """Names of the columns in which two sets of requests differ by a single bit."""

    def names(a: Requests, b: Requests) -> list[str]:
        return [
            field.name
            for field in fields(Requests)
            if not np.array_equal(np.asarray(getattr(a, field.name)), np.asarray(getattr(b, field.name)))
        ]

    return names


@pytest.fixture
def real_trace() -> Callable[[str], Path]:
    """The path of a published trace; the test is skipped where it is not at hand."""

    def path(name: str) -> Path:
        if not (DATA / name).is_file():
            pytest.skip(f"needs the published trace ../shared/data/traces/{name}")
        return DATA / name

    return path
