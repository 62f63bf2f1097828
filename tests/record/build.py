"""Small runs made by hand: each part has defaults, and a test says only what it is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from triptych.record.columns import (
    BATCH_COLUMNS,
    REQUEST_COLUMNS,
    SPAN_COLUMNS,
    TRANSFER_COLUMNS,
    TRANSFER_KINDS,
    WORK_COLUMNS,
)
from triptych.record.logs import InstanceInfo, LaneLog, Spans, Transfers
from triptych.record.run import STATUSES, Run

NEVER = float("nan")

INSTANCE = InstanceInfo(
    id=0,
    pool="all",
    phases=("prefill", "decode"),
    device="toy",
    devices=1,
    lanes=1,
    kv_blocks=100,
    block_size=16,
    peak_flops=1000.0,
    bandwidth=100.0,
    memory_bytes=1000.0,
    weights_bytes=400.0,
    reserved_bytes=50.0,
    idle_watts=10.0,
    peak_watts=110.0,
    dollars_per_hour=3.6,
    kv_block_bytes=5.0,
)


def requests(*rows: dict[str, Any]) -> dict[str, Any]:
    """Request columns; `status` by name. Times that are not given never came to be."""
    columns: dict[str, Any] = {}
    for name, (kind, _) in REQUEST_COLUMNS.items():
        default = NEVER if kind == "float64" else -1 if name.endswith("_instance") else 0
        columns[name] = np.array(
            [row.get(name, default) for row in rows], "U16" if name == "status" else kind
        )
    columns["id"] = np.arange(len(rows))
    columns["transfer_seconds"] = np.nan_to_num(columns["transfer_seconds"])
    codes = [STATUSES.index(row.get("status", "finished")) for row in rows]
    columns["status"] = np.array(codes, np.int8)
    return columns


def lane(*rows: dict[str, float], instance: int = 0, number: int = 0) -> LaneLog:
    """A lane's batches; one iteration each, and KV that does not grow, if not said otherwise."""
    rows = tuple({"kv_blocks_last": row.get("kv_blocks", 0), **row} for row in rows)
    kinds = {**BATCH_COLUMNS, **WORK_COLUMNS}
    columns = {
        name: np.array([row.get(name, name == "iterations") for row in rows], kind)
        for name, (kind, _) in kinds.items()
    }
    return LaneLog(instance, number, columns)


def spans(*rows: tuple[int, int, int, int, float]) -> Spans:
    """Rows of (request, lane, join, leave, token_time)."""
    table = list(zip(*rows, strict=True)) or [()] * len(SPAN_COLUMNS)
    return Spans(
        {
            name: np.array(column, kind)
            for (name, (kind, _)), column in zip(SPAN_COLUMNS.items(), table, strict=True)
        }
    )


def transfers(*rows: tuple[int, str, int, int, float, float, float]) -> Transfers:
    """Rows of (request, kind, source, target, start, end, bytes)."""
    table = [list(column) for column in zip(*rows, strict=True)]
    table[1] = [TRANSFER_KINDS.index(kind) for kind in table[1]]
    return Transfers(
        {
            name: np.array(column, kind)
            for (name, (kind, _)), column in zip(TRANSFER_COLUMNS.items(), table, strict=True)
        }
    )


def run(
    request_rows: Sequence[dict[str, Any]] = (),
    lanes: Sequence[LaneLog] = (),
    span_rows: Sequence[tuple[int, int, int, int, float]] = (),
    *,
    instances: Sequence[InstanceInfo] = (INSTANCE,),
    horizon: float = 10.0,
    **more: Any,
) -> Run:
    """A run of the parts given."""
    return Run(requests(*request_rows), list(lanes), spans(*span_rows), list(instances), horizon, **more)


def split_run() -> Run:
    """Two requests over a prefill and a decode instance, the KV sent between; every figure is known.

    Request 0 arrives at 0, is prefilled 1..2, sent 2..3 and decoded at 4, 5, 6. Request 1 arrives at 1, is
    prefilled 2..3, sent 3..4 and decoded at 5, 6.
    """
    times = ("arrival", "prefill_ready", "prefill_start", "first_token", "decode_ready", "end")
    rows = [
        dict(zip(times, (0, 0, 1, 2, 3, 6), strict=True), output_tokens=4, generated_tokens=4),
        dict(zip(times, (1, 1, 2, 3, 4, 6), strict=True), output_tokens=3, generated_tokens=3),
    ]
    shared = {"prompt_tokens": 100, "prefill_instance": 0, "decode_instance": 1, "transfer_seconds": 1.0}
    prefill = {"first": 1, "prefilling": 1, "prefill_tokens": 100, "sampled": 1, "flops": 500, "bytes": 20}
    decode = {"first": 1, "kv_blocks": 50, "flops": 100, "bytes": 80}
    infos = [
        replace(INSTANCE, pool="prefill", phases=("prefill",)),
        replace(INSTANCE, id=1, pool="decode", phases=("decode",), devices=2, dollars_per_hour=7.2),
    ]
    return run(
        [{**row, **shared} for row in rows],
        [
            lane({**prefill, "start": 1, "waiting": 1}, {**prefill, "start": 2}),
            lane(
                {**decode, "start": 3, "decodes": 1, "decode_kv": 101},
                {**decode, "start": 4, "decodes": 2, "decode_kv": 203, "iterations": 2, "kv_blocks": 80},
                instance=1,
            ),
        ],
        [(0, 1, 0, 3, 2.0), (1, 1, 1, 3, 3.0)],
        instances=infos,
        transfers=transfers((0, "kv", 0, 1, 2.0, 3.0, 64.0), (1, "kv", 0, 1, 3.0, 4.0, 64.0)),
        slo=[("ttft", "p99", 2.5), ("tpot", "mean", 1.4)],
        deployment_yaml="model: toy\n",
        workload_yaml="requests: 2\n",
        meta={"seed": 7},
    )
