"""Continuous batching of `transformers` itself. Offline only.

Its cache lacks a method that models like OPT call (transformers 5.24), for positions that they are given
anyway.
"""

from __future__ import annotations

import sys
from time import perf_counter

import torch
from common import Answer, Job, arguments, serve_jobs
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.generation.continuous_batching import PagedAttentionCache


def main() -> None:
    """Answers jobs."""
    options = arguments()
    if not hasattr(PagedAttentionCache, "get_seq_length"):
        PagedAttentionCache.get_seq_length = lambda cache, layer_idx=0: 0
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[options.dtype]
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype, attn_implementation="sdpa")
    model.to("cpu" if options.device == "CPU" else "cuda")

    def run(job: Job) -> Answer:
        answer = Answer.of(job)
        config = GenerationConfig(max_new_tokens=job.output, eos_token_id=-1, pad_token_id=0, do_sample=False)
        begin = perf_counter()
        outputs = model.generate_batch(inputs=job.prompts, generation_config=config, progress_bar=False)
        now = perf_counter() - begin
        for request, output in enumerate(outputs.values()):
            if output.error:
                raise RuntimeError(output.error)
            answer.first[request] = answer.last[request] = now
            answer.tokens[request] = len(output.generated_tokens)
        return answer

    serve_jobs(run)


if __name__ == "__main__":
    sys.exit(main())
