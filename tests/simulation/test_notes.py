"""What of a deployment does not do what it seems to have been declared for is said."""

from __future__ import annotations

from typing import Any

import triptych
from triptych.spec.deployment import Deployment
from triptych.spec.workload import WorkloadSpec

SCHEDULER = {"policy": "unified"}
ALL = {"phases": ["prefill", "decode"], "device": "H100", "scheduler": SCHEDULER}


def notes(pools: dict[str, Any], output: int = 8, model: str = "opt-125m", **workload: Any) -> list[str]:
    spec = {
        "requests": 4,
        "arrivals": {"kind": "constant", "rate": 1},
        "prompt": {"kind": "fixed", "tokens": 200},
        "output": {"kind": "fixed", "tokens": output},
        **workload,
    }
    deployment = Deployment.parse({"model": model, "pools": pools})
    said: list[str] = triptych.simulate(deployment, WorkloadSpec.parse(spec)).meta["notes"]
    return said


def test_a_deployment_that_does_as_declared_has_none() -> None:
    assert notes({"all": ALL}) == []


def test_a_pool_that_nothing_came_to() -> None:
    pools = {"p": ALL | {"phases": ["prefill"]}, "d": ALL | {"phases": ["decode"]}}
    assert notes(pools, output=1) == ["pool d was never used: no request needed it"]


def test_instances_that_nothing_came_to() -> None:
    (note,) = notes({"all": ALL | {"instances": 9}})
    assert note.startswith("pool all: ") and note.endswith(" of 9 instances were never used")


def test_a_prefix_cache_needs_prompts_that_are_known_to_share() -> None:
    pool = {"all": ALL | {"prefix_cache": True}}
    (note,) = notes(pool)
    assert note.startswith("pool all: prefix_cache finds nothing")
    assert notes(pool, prefixes={"groups": 1, "tokens": 64}) == []


def test_an_instance_that_crosses_nodes() -> None:
    pool = ALL | {"node": "DGX-H100", "parallel": {"tensor": 8, "pipeline": 2}}
    (note,) = notes({"all": pool}, model="Llama-3.1-70B")
    assert note.startswith("pool all: an instance of 16 devices crosses nodes of 8")
    assert notes({"all": pool | {"parallel": {"tensor": 8}}}, model="Llama-3.1-70B") == []
