"""Runs of vLLM in the layout of LLMServingSim: profiles, workloads and measurements in folders of one name.

    profiles/<device>/<organisation>/<model>/<precision>/tp<N>/   operator times
    workloads/<name>.blocks.csv          arrival_time_ns, input_toks, output_toks, prefix_block16_ids
    measured/<device>/<model>/           meta.json (the engine's arguments), requests.jsonl, timeseries.csv
    comm_<device>/                       collectives, where they were measured

Arguments of engines that were not measured stand in `flags.yaml` beside this file; a `meta.json` comes first.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cases.case import Case
from triptych import catalog
from triptych.profiles.library import load_profile
from triptych.spec.deployment import Deployment
from triptych.spec.yaml import parse_yaml
from triptych.workload import Requests

_DEFAULTS = {
    "max_num_seqs": 128,
    "max_num_batched_tokens": 2048,
    "gpu_memory_utilization": 0.9,
    "async_scheduling": True,
}
"""Of runs that do not say: the last two are vLLM 0.19's own."""
_PUBLISHED = {
    "RTXPRO6000/Llama-3.1-8B": {"ttft.mean": -0.040, "tpot.mean": -0.010, "e2e.mean": -0.018},
    "RTXPRO6000/Qwen3-32B": {"ttft.mean": 0.013, "tpot.mean": 0.008, "e2e.mean": 0.010},
}
"""LLMServingSim 2.0 on the same runs, after its own calibration."""


def vllm_cases(root: Path) -> Iterator[Case]:
    """The cases of a folder: every model that has a profile."""
    for profile in sorted(root.glob("profiles/*/*/*/*/meta.yaml")):
        precision = profile.parent
        model, device = precision.parent.name, precision.parents[2].name
        yield _case(root, precision, model, device)


def _case(root: Path, profile: Path, model: str, device: str) -> Case:
    measured = root / "measured" / device / model
    name = f"{device}/{model}"
    flags = {**_DEFAULTS, **_flags().get(name, {})}
    about: Mapping[str, Any] = {}
    if (measured / "meta.json").exists():
        about = json.loads((measured / "meta.json").read_text(encoding="utf-8"))
        flags |= {key: value for key, value in about["engine_kwargs"].items() if value is not None}
    rows = _measured_rows(measured / "requests.jsonl")
    workload = _workload(root, model, rows)
    deployment = _deployment(model, profile, flags, root / f"comm_{device.lower()}")
    if not rows:
        return Case(name, deployment, workload)
    queued, first, last, tokens = (
        np.array([row[key] for row in rows], dtype=np.float64)
        for key in ("queued_ts", "first_token_ts", "last_token_ts", "output_toks")
    )
    series = measured / "timeseries.csv"
    return Case(
        name,
        deployment,
        _arriving(workload, queued - queued.min()),
        {"ttft": first - queued, "tpot": (last - first) / np.maximum(tokens - 1, 1), "e2e": last - queued},
        horizon=float(last.max() - queued.min()),
        timeseries=series if series.exists() else None,
        others=_PUBLISHED.get(name, {}),
    )


@cache
def _flags() -> dict[str, dict[str, Any]]:
    flags: dict[str, dict[str, Any]] = parse_yaml(Path(__file__).with_name("flags.yaml").read_text())
    return flags


def _deployment(model: str, profile: Path, flags: Mapping[str, Any], comm: Path) -> Deployment:
    """The engine's arguments as a deployment: its V1 scheduler is `unified`, with the prefix cache on."""
    measured = load_profile(str(profile))
    tensor, data = int(flags.get("tensor_parallel_size", 1)), int(flags.get("data_parallel_size", 1))
    devices = tensor * data
    sources = [str(profile)]
    if devices > 1 and comm.exists():
        # vLLM's own all-reduce before NCCL's, as in the engine.
        sources += [str(path) for path in sorted(comm.glob("*.csv"), key=lambda path: "nccl" in path.name)]
    pool: dict[str, Any] = {
        "phases": ["prefill", "decode"],
        "device": measured.info.device,
        "profile": sources,
        "parallel": {
            "tensor": tensor,
            "data": data,
            "expert": devices if flags.get("enable_expert_parallel") else 1,
        },
        "scheduler": {
            "policy": "unified",
            "max_batch": int(flags["max_num_seqs"]),
            "max_tokens": int(flags["max_num_batched_tokens"]),
            "lookahead": bool(flags["async_scheduling"]),
        },
        "block_size": 16,
        "prefix_cache": True,
        "memory_fraction": float(flags["gpu_memory_utilization"]),
    }
    if "num_gpu_blocks_override" in flags:
        pool["kv_blocks"] = int(flags["num_gpu_blocks_override"])
    return Deployment.parse({"model": catalog.model(model).name, "pools": {"all": pool}})


def _measured_rows(path: Path) -> list[dict[str, Any]]:
    """Of the requests, in the order of the workload."""
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return sorted(rows, key=lambda row: int(row["request_id"].rpartition("-")[2]))


def _workload(root: Path, model: str, rows: list[dict[str, Any]]) -> Requests:
    """The workload that was measured, told by its lengths; else that of the model's family."""
    paths = sorted(root.glob("workloads/*.blocks.csv"))
    if rows:
        lengths = [(row["input_toks"], row["output_toks"]) for row in rows]
        for path in paths:
            requests = _read_workload(path)
            if list(zip(requests.text_tokens, requests.output_tokens, strict=True)) == lengths:
                return requests
        raise SystemExit(f"{root}: no workload has the lengths that were measured of {model}")
    words = model.lower().split("-")
    return _read_workload(max(paths, key=lambda path: sum(word in path.name for word in words)))


@cache
def _read_workload(path: Path) -> Requests:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    ids = [[int(each) for each in row["prefix_block16_ids"].split()] for row in rows]
    lengths = (
        np.array([int(row[name]) for row in rows], dtype=np.int64) for name in ("input_toks", "output_toks")
    )
    plain = Requests.plain(np.array([int(row["arrival_time_ns"]) * 1e-9 for row in rows]), *lengths)
    return replace(
        plain,
        prefix_offsets=np.concatenate([[0], np.cumsum([len(each) for each in ids])]).astype(np.int64),
        prefix_ids=np.array([each for group in ids for each in group], dtype=np.int64),
        prefix_block_tokens=16,
    )


def _arriving(requests: Requests, arrival: np.ndarray) -> Requests:
    """The same requests, at the times at which the engine got them; they stay in their order."""
    rows = np.arange(len(requests))
    return requests.take(rows, np.maximum.accumulate(arrival))
