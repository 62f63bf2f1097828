"""How long a decode of the engine takes, by plain passes and by captured graphs, beside the memory bound.

    python benchmarks/decode.py --device H200 [--model Llama-3-8B] [--json FILE]

The bound is what the device's data sheet needs to read the weights and the KV of the batch once.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import statistics
from pathlib import Path
from time import perf_counter

import torch

from triptych import catalog
from triptych.engine.graphs import CUDACapture
from triptych.engine.loader import load
from triptych.engine.messages import Sampling
from triptych.engine.packed import pack
from triptych.engine.runner import Runner, Work
from triptych.engine.sequence import Sequence
from triptych.policy import Request

BLOCK = 16


def main() -> None:
    """Prints a row for each size of batch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="CPU", help="name in the device catalogue of the one at hand")
    parser.add_argument("--model", default="OPT-125M", help="name in the model catalogue")
    parser.add_argument("--batches", default="1,8,32,128", help="sequences that decode at once")
    parser.add_argument("--context", type=int, default=1024, help="tokens of each")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO)  # which attention was tried
    batches = [int(count) for count in options.batches.split(",")]
    where = "cpu" if options.device == "CPU" else "cuda"
    model = load(f"random:{options.model}", dtype=torch.bfloat16, device=where)
    weights = sum(weight.numel() * weight.element_size() for weight in model.model.parameters())
    inputs, head = model.model.get_input_embeddings().weight, model.model.get_output_embeddings().weight
    if inputs is not head:  # of the embedding a decode reads a row a token
        weights -= inputs.numel() * inputs.element_size()
    if where == "cpu":
        pack(model.model)
    pages = -(-options.context // BLOCK)
    runner = Runner(model, blocks=max(batches) * pages, block_size=BLOCK)
    runner.warm_up()
    sequences = [sequence(number, options.context, pages, model.vocab_size) for number in range(max(batches))]
    kv = 2 * model.layers * model.kv_heads * model.head_dim * 2 * options.context
    bandwidth = catalog.device(options.device).bandwidth
    print(f"{options.model}, {options.context} tokens each; {runner.attention.name}", flush=True)
    figures: dict[str, object] = {"model": options.model, "attention": runner.attention.name}
    bounds = {count: (weights + count * kv) / bandwidth for count in batches}

    def tell(way: str) -> None:
        """A row as soon as it is measured: whoever cuts this off keeps those before."""
        for count in batches:
            seconds, bound = measure(runner, sequences[:count], options.repeats), bounds[count]
            share = f"bound {bound * 1e3:.3f} ms, {bound / seconds:.0%} of it reached"
            print(f"{count:4} decodes, {way}: {seconds * 1e3:8.3f} ms; {share}", flush=True)
            figures[f"batch_{count}.{way}"], figures[f"batch_{count}.bound"] = seconds, bound
            if options.json:
                options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")

    tell("plain")
    if where == "cuda":
        runner.capture(max(batches), CUDACapture())
    if runner.graphs is not None:
        tell("graphs")


def sequence(number: int, context: int, pages: int, vocabulary: int) -> Sequence:
    """A request whose KV lies side by side."""
    chance = random.Random(number)
    tokens = [chance.randrange(vocabulary) for _ in range(context)]
    own = list(range(number * pages, (number + 1) * pages))
    return Sequence("", Request(number, context, 1), tokens, Sampling(max_tokens=1), pages=own)


def measure(runner: Runner, sequences: list[Sequence], repeats: int) -> float:
    """Median seconds of a decode, its logits read."""
    work = [Work(each, len(each.tokens) - 1, 1, True) for each in sequences]
    seconds = []
    for _ in range(repeats + 2):
        begin = perf_counter()
        runner.logits(work).argmax(-1).tolist()
        seconds.append(perf_counter() - begin)
    return statistics.median(seconds[2:])


if __name__ == "__main__":
    main()
