"""Why requests were rejected."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.record import build

import triptych
from triptych.record.metrics import summarise
from triptych.record.rejections import CONTEXT, IMAGES, KV, OTHER, rejections
from triptych.spec.deployment import Deployment
from triptych.spec.workload import WorkloadSpec


def rejected(**more: Any) -> dict[str, Any]:
    return {"arrival": 0.0, "end": 0.0, "status": "rejected", "output_tokens": 1, **more}


def test_each_cause_is_counted() -> None:
    """The instance holds 1,600 tokens of KV, the model reaches 2,000."""
    rows = [
        {"arrival": 0.0, "first_token": 1.0, "end": 1.0, "prompt_tokens": 3000, "generated_tokens": 1},
        rejected(prompt_tokens=3000),
        rejected(prompt_tokens=1990, output_tokens=12),
        rejected(prompt_tokens=1601),
        rejected(prompt_tokens=100, images=2),
        rejected(prompt_tokens=100),
        {"status": "rejected", "prompt_tokens": 9000},  # never came
    ]
    run = build.run(rows, meta={"model_context": 2000})
    assert rejections(run) == {CONTEXT: 2, KV: 1, IMAGES: 1, OTHER: 1}
    assert summarise(run).counts.rejected_as == rejections(run)
    assert rejections(replace(run, instances=[], meta={})) == {OTHER: 5}, "as a client sees it"


@pytest.mark.parametrize(("blocks", "cause"), [(None, CONTEXT), (20, KV)])
def test_what_the_simulator_rejects_has_its_cause(blocks: int | None, cause: str) -> None:
    pool = {"phases": ["prefill", "decode"], "device": "A10", "scheduler": {"policy": "vllm"}}
    workload = {
        "requests": 3,
        "arrivals": {"kind": "at-once"},
        "prompt": {"kind": "fixed", "tokens": 5000 if blocks is None else 1000},
        "output": {"kind": "fixed", "tokens": 2},
    }
    more = {} if blocks is None else {"kv_blocks": blocks}
    deployment = Deployment.parse({"model": "opt-125m", "pools": {"all": pool | more}})
    summary = triptych.summarise(triptych.simulate(deployment, WorkloadSpec.parse(workload)))
    assert summary.counts.rejected_as == {cause: 3}
