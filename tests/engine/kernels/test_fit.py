"""What is wider than declared is tried only where there is memory for it, and counted as what it is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from triptych.catalog import machine
from triptych.engine.build import Instance, build
from triptych.engine.kernels import fit as module
from triptych.engine.kernels.choice import Choice, Sizes
from triptych.engine.kernels.fit import fit
from triptych.engine.loader import LoadedModel, load
from triptych.engine.threads import KERNEL_BYTES
from triptych.plan import plan_pools
from triptych.spec.base import SpecError
from triptych.spec.deployment import Deployment

from .. import tiny

BLOCKS, BLOCK = 4000, 16
SHARE = 0.8
"""Share of the free memory that weights and KV may take together."""


class Chosen:
    """Stands for the trial: what it finds is known, and what it was asked.

    Args:
        kv: format of KV; None: the widest that is tried.
    """

    def __init__(self, kv: str | None) -> None:
        self._kv = kv
        self.sizes: list[Sizes] = []

    def __call__(self, sizes: Sizes, trial: object) -> Choice:
        self.sizes.append(sizes)
        return Choice("bf16", "flash", "flash", self._kv or ("fp32" if sizes.wide_kv else "bf16"))


def chosen(monkeypatch: pytest.MonkeyPatch, kv: str | None = "bf16") -> Chosen:
    found = Chosen(kv)
    monkeypatch.setattr(module, "choose", found)
    return found


def free(monkeypatch: pytest.MonkeyPatch, amount: float, *, limit: float = 1e15) -> None:
    """Lets so many bytes be free, of `limit` that this process may have."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=amount, total=amount))
    monkeypatch.setattr(machine, "memory", lambda: limit)


def small(folder: Path) -> LoadedModel:
    return load(f"random:{tiny.config_file('qwen2', folder)}", dtype=torch.bfloat16)


@pytest.mark.parametrize("by_limit", [False, True], ids=["free", "limit of the process"])
@pytest.mark.parametrize("reserved", [0.0, 1e6])
def test_wider_formats_are_tried_where_they_fit(
    by_limit: bool, reserved: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, model = chosen(monkeypatch), small(tmp_path)
    weights = 4 * sum(each.numel() for each in model.model.parameters())
    kv = BLOCKS * BLOCK * 2 * 2 * model.layers * model.kv_heads * model.head_dim  # as declared, in bf16
    found = []
    for needed in (weights + kv, weights + 2 * kv):  # KV as declared beside weights in fp32; all in fp32
        for amount in ((needed + reserved) / SHARE - 10, (needed + reserved) / SHARE + 10):
            free(monkeypatch, *((1e15,) if by_limit else (amount,)), limit=amount if by_limit else 1e15)
            fit(small(tmp_path), batch=8, chunk=64, places=BLOCKS * BLOCK, reserved=reserved)
            sizes = trial.sizes[-1]
            found.append((sizes.wide_weights, sizes.wide_kv))
    assert found == [(False, False), (True, False), (True, False), (True, True)]


def declared(folder: Path) -> Deployment:
    return Deployment.parse(
        {
            "model": f"random:{tiny.config_file('qwen2', folder)}",
            "pools": {
                "all": {
                    "phases": ["prefill", "decode"],
                    "device": "CPU",
                    "precision": {"weights": "bf16", "kv": "bf16", "compute": "bf16"},
                    "scheduler": {"policy": "unified", "max_batch": 4, "max_tokens": 64},
                    "kv_blocks": BLOCKS,
                    "block_size": BLOCK,
                }
            },
        }
    )


def built(folder: Path, monkeypatch: pytest.MonkeyPatch, kv: str | None, amount: float) -> Instance:
    """Where KV is the fastest in a format, and so many times the planned KV is free beside kernels."""
    chosen(monkeypatch, kv)
    deployment = declared(folder)
    memory = plan_pools(deployment)[0].memory
    free(monkeypatch, KERNEL_BYTES + amount * memory.kv_blocks * memory.kv_bytes_per_block)
    return build(deployment, folder / "deployment.yaml")


@pytest.mark.parametrize(("kv", "enough"), [("bf16", 1.01), ("fp32", 2.01)])
def test_kv_counts_in_the_format_that_it_is_kept_in(
    kv: str, enough: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SpecError, match="KV and image embeddings take"):
        built(tmp_path, monkeypatch, kv, enough - 0.02)
    made = built(tmp_path, monkeypatch, kv, enough)
    assert made.kernels["kv"] == kv


@pytest.mark.parametrize("kv", ["bf16", "fp32"])
def test_the_format_does_not_change_how_many_blocks_there_are(
    kv: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = built(tmp_path, monkeypatch, kv, 10.0)
    keys = made.engine.runner._pool.keys
    assert keys.dtype is {"bf16": torch.bfloat16, "fp32": torch.float32}[kv]
    assert made.engine.scheduler.kv.blocks == made.plan.memory.kv_blocks == BLOCKS
    assert BLOCKS <= keys.shape[1] // BLOCK <= BLOCKS + 1


@pytest.mark.parametrize("amount", [1.01, 1.99, 2.01, 100.0])
def test_no_wider_format_is_chosen_that_is_then_refused(
    amount: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = built(tmp_path, monkeypatch, None, amount)
    assert made.kernels["kv"] == ("fp32" if amount == 100.0 else "bf16")
