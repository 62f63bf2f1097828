"""What the kernels take that a worker keeps is not there for KV."""

from __future__ import annotations

from pathlib import Path

import pytest

from triptych.engine import build as building
from triptych.engine.threads import KERNEL_BYTES
from triptych.plan import plan_pools
from triptych.spec.base import SpecError
from triptych.spec.deployment import Deployment


def test_kernels_are_counted_beside_kv(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = {
        "phases": ["prefill", "decode"],
        "device": "CPU",
        "kv_blocks": 100,
        "scheduler": {"policy": "orca"},
    }
    plan = plan_pools(Deployment.parse({"model": "random:opt-125m", "pools": {"all": pool}}))[0]
    kv = plan.memory.kv_blocks * plan.memory.kv_bytes_per_block + plan.memory.embedding_bytes
    check = building._check_memory
    monkeypatch.setattr(building, "_free_bytes", lambda device: int(kv + KERNEL_BYTES + 1))
    check(plan, "cpu", 1.0, "pools.all", Path("x.yaml"))
    monkeypatch.setattr(building, "_free_bytes", lambda device: int(kv + KERNEL_BYTES - 1e6))
    check(plan, "cuda", 1.0, "pools.all", Path("x.yaml"))
    with pytest.raises(SpecError, match="KV and image embeddings take"):
        check(plan, "cpu", 1.0, "pools.all", Path("x.yaml"))
