"""Random deployments and workloads: small memories and short requests, so that all that is rare happens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

import triptych
from triptych import catalog
from triptych.policy import ROUTERS
from triptych.record import Run
from triptych.spec.deployment import Deployment
from triptych.spec.workload import WorkloadSpec

POLICIES = ("static", "orca", "vllm", "sarathi", "unified")
PHASES = ["encode", "prefill", "decode"]
SPLITS: dict[str, list[list[str]]] = {
    "one pool": [["prefill", "decode"]],
    "one pool with images": [PHASES],
    "P / D": [["prefill"], ["decode"]],
    "E / P / D": [["encode"], ["prefill"], ["decode"]],
    "EP / D": [["encode", "prefill"], ["decode"]],
    "E / PD": [["encode"], ["prefill", "decode"]],
    "ED / P": [["encode", "decode"], ["prefill"]],
    "EPD + P / D": [PHASES, ["prefill"], ["decode"]],
}
"""Phases of the pools, which are named by their initials."""
EMBEDDING_BLOCK_BYTES = 16 * 2048 * 2
"""Of Qwen2.5-VL-3B: 16 tokens of 2048 numbers in bf16."""
MODELS = {
    (False, False): ("opt-125m", "A10"),
    (False, True): ("Qwen1.5-MoE-A2.7B", "H100"),
    (True, False): ("Qwen2.5-VL-3B", "A10"),
    (True, True): ("Qwen3-VL-30B-A3B", "H100"),
}
"""By whether images come and whether there are experts, a model and a device that holds it."""


@dataclass
class World:
    """A deployment and a workload, as plain data."""

    split: str
    deployment: dict[str, Any]
    workload: dict[str, Any]

    def simulate(self, *, jump: bool = True) -> Run:
        return triptych.simulate(
            Deployment.parse(self.deployment), WorkloadSpec.parse(self.workload), jump=jump
        )


@st.composite
def worlds(draw: st.DrawFn, policy: str | None = None, split: str | None = None) -> World:
    """A world whose prefill and decode run under `policy`, or each pool under any."""
    split = split or draw(st.sampled_from(list(SPLITS)))
    with_images = any("encode" in phases for phases in SPLITS[split])
    experts = draw(st.booleans())
    block_size = draw(st.sampled_from([1, 4, 16]))
    model, device = MODELS[with_images, experts]
    embedding_block = 16 * catalog.model(model).embedding_bytes_per_token("bf16") if with_images else 0.0
    pools = {
        "".join(phase[0] for phase in phases): {
            "device": device,
            **draw(_pools(phases, block_size, policy, embedding_block)),
            **({} if phases == ["encode"] else draw(_parallel(experts))),
        }
        for phases in SPLITS[split]
    }
    for pool in pools.values():
        if "pipeline" in pool.get("parallel", {}):
            pool["scheduler"].pop("lookahead")
    deployment: dict[str, Any] = {"model": model, "pools": pools}
    deployment["routers"] = {phase: draw(st.sampled_from(list(ROUTERS))) for phase in PHASES}
    return World(split, deployment, draw(_workloads(with_images)))


@st.composite
def _pools(
    draw: st.DrawFn, phases: list[str], block_size: int, policy: str | None, embedding_block: float
) -> dict[str, Any]:
    pool: dict[str, Any] = {"phases": phases, "instances": draw(st.integers(1, 3))}
    if embedding_block and ("encode" in phases or "prefill" in phases):
        pool["embedding_cache"] = draw(st.integers(8, 20)) * embedding_block
    if phases == ["encode"]:
        return pool | {"scheduler": {"policy": "encode", "max_patches": draw(st.sampled_from([64, 1024]))}}
    policy = policy or draw(st.sampled_from(POLICIES))
    max_batch = draw(st.integers(1, 8))
    scheduler: dict[str, Any] = {"policy": policy, "max_batch": max_batch}
    if policy in ("vllm", "sarathi", "unified"):
        scheduler["max_tokens"] = max_batch + draw(st.integers(1, 64))
    pool["prefix_cache"] = "prefill" in phases and draw(st.booleans())
    scheduler["lookahead"] = draw(st.booleans())
    return pool | {
        "scheduler": scheduler,
        "block_size": block_size,
        "kv_blocks": draw(st.integers(240, 800)) // block_size,
    }


@st.composite
def _parallel(draw: st.DrawFn, experts: bool) -> dict[str, Any]:
    """A pool of single devices, of pipelines, or of data ranks that go in step."""
    kinds = ["none", "pipeline", "data"] if experts else ["none", "pipeline"]
    kind = draw(st.sampled_from(kinds))
    return {} if kind == "none" else {"parallel": {kind: draw(st.sampled_from([2, 3]))}}


@st.composite
def _workloads(draw: st.DrawFn, with_images: bool) -> dict[str, Any]:
    """Arrivals and lengths are drawn from continuous or wide distributions, so that no two events tie."""
    rate = draw(st.sampled_from([3.0, 30.0, 300.0]))
    workload: dict[str, Any] = {
        "requests": draw(st.integers(1, 40)),
        "seed": draw(st.integers(0, 10_000)),
        "arrivals": {"kind": "gamma", "rate": rate, "cv": draw(st.sampled_from([0.5, 1.0, 3.0]))},
        "prompt": {"kind": "uniform", "low": 1, "high": 160},
        "output": {"kind": "uniform", "low": 1, "high": draw(st.sampled_from([8, 120]))},
    }
    if draw(st.booleans()):
        workload["arrivals"] = {"kind": "closed", "concurrency": draw(st.integers(1, 12))}
    elif draw(st.booleans()):
        workload["max_concurrency"] = draw(st.integers(1, 12))
    if with_images and draw(st.booleans()):
        workload["images"] = {
            "share": 0.6,
            "count": {"low": 1, "high": 3},
            "sizes": [{"width": 112, "height": 84}, {"width": 224, "height": 196}],
            "distinct": draw(st.sampled_from([5, 1000])),
        }
    if draw(st.booleans()):
        workload["prefixes"] = {"groups": 2, "tokens": draw(st.sampled_from([20, 64])), "share": 0.8}
    if draw(st.booleans()):
        workload["timeout"] = draw(st.sampled_from([0.3, 2.0]))
    if draw(st.booleans()):
        workload["aborts"] = {"share": 0.5, "after": draw(st.sampled_from([0.05, 0.5]))}
    return workload
