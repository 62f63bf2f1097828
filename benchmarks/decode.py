"""How long decodes and prompts of the engine take, beside the device's bounds and, if asked for, `generate`.

    python benchmarks/decode.py --device H200 [--model Llama-3-8B] [--prompts 4096] [--generate] [--json FILE]

A decode is bounded by the time in which the device reads the weights and the KV of the batch once, a prompt
by the time of its products: two FLOP a weight and token, and attention. On CUDA decodes run as plain passes
and as captured graphs. `--generate` times Hugging Face's `generate` at the same sizes: a prompt is its first
token, a decode what each further one adds.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import random
import statistics
from pathlib import Path
from time import perf_counter

import torch

from triptych import catalog
from triptych.engine.graphs import CUDACapture
from triptych.engine.kernels.fit import fit
from triptych.engine.loader import load
from triptych.engine.messages import Sampling
from triptych.engine.runner import Runner, Work
from triptych.engine.sequence import Sequence
from triptych.policy import Request

BLOCK = 16
AHEAD = 16
"""Tokens of `generate` that its decodes are averaged over."""


def main() -> None:
    """Prints a row for each size of batch and each length of prompt."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="CPU", help="name in the device catalogue of the one at hand")
    parser.add_argument("--model", default="OPT-125M", help="name in the model catalogue")
    parser.add_argument("--batches", default="1,8,32,128", help="sequences that decode at once")
    parser.add_argument("--dtype", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--context", type=int, default=1024, help="tokens of each")
    parser.add_argument("--prompts", default="", help="lengths of prompts that are prefilled alone")
    parser.add_argument("--generate", action="store_true", help="time Hugging Face's generate too")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO)  # which attention was tried
    batches = [int(count) for count in options.batches.split(",")]
    where = "cpu" if options.device == "CPU" else "cuda"
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[options.dtype]
    model = load(f"random:{options.model}", dtype=dtype, device=where)
    weights = sum(weight.numel() * weight.element_size() for weight in model.model.parameters())
    inputs, head = model.model.get_input_embeddings().weight, model.model.get_output_embeddings().weight
    # Of the products of a prompt, the head's are for its last token alone.
    others = inputs.numel() + (0 if inputs is head else head.numel())
    prompt_flop = 2 * (weights // dtype.itemsize - others)
    if inputs is not head:  # of the embedding a decode reads a row a token
        weights -= inputs.numel() * inputs.element_size()
    prompts = [int(length) for length in options.prompts.split(",") if length]
    longest = max(options.context, *prompts, 1)
    pages = -(-longest // BLOCK)
    places = max(batches) * pages * BLOCK
    fitted = fit(model, batch=max(batches), chunk=longest, places=places) if where == "cpu" else None
    runner = Runner(
        model,
        blocks=max(batches) * pages,
        block_size=BLOCK,
        attention=None if fitted is None else fitted.attention,
        kv=None if fitted is None else fitted.kv,
    )
    runner.warm_up()
    sequences = [sequence(number, options.context, pages, model.vocab_size) for number in range(max(batches))]
    device, text = catalog.device(options.device), catalog.model(options.model).text
    kv = 2 * model.layers * model.kv_heads * model.head_dim * dtype.itemsize
    decode_bound = {count: (weights + count * options.context * kv) / device.bandwidth for count in batches}
    pairs = 4 * model.layers * text.heads * model.head_dim
    prompt_bound = {
        length: (prompt_flop * length + pairs * length**2 / 2) / device.flops[options.dtype]
        for length in prompts
    }
    print(f"{options.model}, {options.context} tokens each; {runner.attention.name}", flush=True)
    figures: dict[str, object] = {"model": options.model, "attention": runner.attention.name}

    def tell(what: str, name: str, seconds: float, bound: float) -> None:
        """A row as soon as it is measured: whoever cuts this off keeps those before."""
        share = f"bound {bound * 1e3:.3f} ms, {bound / seconds:.0%} of it reached"
        print(f"{what}: {seconds * 1e3:8.3f} ms; {share}", flush=True)
        figures[name], figures[f"{name.partition('.')[0]}.bound"] = seconds, bound
        if options.json:
            options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")

    def tell_decodes(way: str, runner: Runner) -> None:
        for count, bound in decode_bound.items():
            seconds = measure(runner, sequences[:count], options.repeats)
            tell(f"{count:4} decodes, {way}", f"batch_{count}.{way}", seconds, bound)

    tell_decodes("plain", runner)
    if where == "cuda":
        runner.capture(max(batches), CUDACapture())
    if runner.graphs is not None:
        tell_decodes("graphs", runner)
    for length, bound in prompt_bound.items():
        alone = sequence(0, length, pages, model.vocab_size)
        seconds = measure(runner, [alone], options.repeats, whole=True)
        tell(f"prompt of {length}", f"prompt_{length}.engine", seconds, bound)
    if not options.generate:
        return
    del runner, model
    gc.collect()
    generate = Generate(options.model, where, dtype)
    for length, bound in prompt_bound.items():
        seconds = generate.seconds(1, length, 1, options.repeats)
        tell(f"prompt of {length}, generate", f"prompt_{length}.generate", seconds, bound)
    for count, bound in decode_bound.items():
        first, all_ = (generate.seconds(count, options.context, tokens, 3) for tokens in (1, 1 + AHEAD))
        tell(f"{count:4} decodes, generate", f"batch_{count}.generate", (all_ - first) / AHEAD, bound)


class Generate:
    """Hugging Face's `generate` on the same random weights."""

    def __init__(self, name: str, where: str, dtype: torch.dtype) -> None:
        self._model = load(f"random:{name}", dtype=dtype, device=where, attention="sdpa").model
        self._model.generation_config.eos_token_id = None

    def seconds(self, batch: int, context: int, tokens: int, repeats: int) -> float:
        """Median seconds to prefill prompts and generate tokens of each."""
        ids = torch.randint(0, self._model.get_input_embeddings().num_embeddings, (batch, context))
        ids = ids.to(self._model.device)
        seconds = []
        for _ in range(repeats + 1):
            begin = perf_counter()
            self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
            ).tolist()
            seconds.append(perf_counter() - begin)
        return statistics.median(seconds[1:])


def sequence(number: int, context: int, pages: int, vocabulary: int) -> Sequence:
    """A request whose KV lies side by side."""
    chance = random.Random(number)
    tokens = [chance.randrange(vocabulary) for _ in range(context)]
    own = list(range(number * pages, (number + 1) * pages))
    return Sequence("", Request(number, context, 1), tokens, Sampling(max_tokens=1), pages=own)


def measure(runner: Runner, sequences: list[Sequence], repeats: int, *, whole: bool = False) -> float:
    """Median seconds of a decode, or of the whole prompt, its logits read."""
    work = [
        Work(each, 0, len(each.tokens), True) if whole else Work(each, len(each.tokens) - 1, 1, True)
        for each in sequences
    ]
    seconds = []
    for _ in range(repeats + 2):
        begin = perf_counter()
        runner.logits(work).argmax(-1).tolist()
        seconds.append(perf_counter() - begin)
    return statistics.median(seconds[2:])


if __name__ == "__main__":
    main()
