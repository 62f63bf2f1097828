"""Runs of vLLM on H100 in a closed loop of equal requests, as aiconfigurator publishes them.

A row of `measured_vllm_h100_agg.csv` has prompt and output lengths, the requests under way (`batch_size`),
the parallelism, TTFT and TPOT. Which requests were left out to warm up is not said, nor which statistic TTFT
is: it is there to be looked at, TPOT to be judged by.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from cases.case import Case, Refused
from triptych import catalog
from triptych.spec.base import SpecError
from triptych.spec.deployment import Deployment
from triptych.workload import Requests

_WAVES = 6
"""Rounds of the closed loop that are simulated, the first two of which are left out."""
_PRECISION = {"": "bf16", "fp8": "fp8"}


def closed_loop_cases(root: Path) -> Iterator[Case | Refused]:
    """The rows that Triptych has a model for; the others by their reason."""
    refused: Counter[tuple[str, str]] = Counter()
    with next(root.glob("measured_*.csv")).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            name = f"H100/{row['model_path'].rpartition('/')[2]}"
            try:
                yield _case(root, name, row)
            except SpecError as error:
                refused[name, error.problem] += 1
    for (name, reason), count in refused.items():
        yield Refused(name, reason, count)


def _case(root: Path, name: str, row: dict[str, str]) -> Case:
    quantised = row["gemm_quant_mode"]
    if quantised not in _PRECISION:
        raise SpecError("precision", f"{quantised} weights are none of Triptych's number formats")
    model = catalog.model(row["model_path"])
    data = int(row["attention_dp_size"] or 1)
    if data > 1:
        raise SpecError("parallel", "data ranks of one engine's measurement cannot be told apart")
    precision = _PRECISION[quantised]
    tensor, concurrency = int(row["tp_size"]), int(row["batch_size"])
    operators = sorted((root / "operators").glob("*/vllm_*"))[-1]
    deployment = Deployment.parse(
        {
            "model": model.name,
            "pools": {
                "all": {
                    "phases": ["prefill", "decode"],
                    "device": "H100",
                    "node": "DGX-H100",
                    "profile": str(operators),
                    "parallel": {"tensor": tensor},
                    "precision": {"weights": precision, "compute": precision},
                    "scheduler": {"policy": "unified", "max_batch": 256, "max_tokens": 8192},
                    "prefix_cache": False,
                }
            },
        }
    )
    prompt, output = int(row["isl"]), int(row["osl"])
    return Case(
        f"{name} {precision} TP{tensor} {prompt}+{output} x{concurrency}",
        deployment,
        _requests(prompt, output, concurrency),
        {
            "ttft": np.array([float(row["silicon_ttft_ms"]) * 1e-3]),
            "tpot": np.array([float(row["silicon_tpot_ms"]) * 1e-3]),
        },
        per_request=False,
        skip=2 * concurrency,
    )


def _requests(prompt: int, output: int, concurrency: int) -> Requests:
    count = _WAVES * concurrency
    lengths = (np.full(count, tokens, dtype=np.int64) for tokens in (prompt, output))
    return replace(Requests.plain(np.zeros(count), *lengths), concurrency=concurrency)
