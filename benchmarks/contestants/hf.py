"""Hugging Face `generate`: the baseline. Serving, it answers all that wait together, up to 20."""

from __future__ import annotations

import sys
from time import perf_counter, sleep

import torch
from common import Answer, Job, arguments, serve_jobs
from transformers import AutoModelForCausalLM

_BATCH = 20


def main() -> None:
    """Answers jobs."""
    options = arguments()
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[options.dtype]
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype, attn_implementation="sdpa")
    model.generation_config.eos_token_id = None
    model.to("cpu" if options.device == "CPU" else "cuda")

    def run(job: Job) -> Answer:
        answer = Answer.of(job)
        waiting = list(range(len(job.prompts)))
        begin = perf_counter()
        while waiting:
            sleep(max(0.0, job.arrivals[waiting[0]] - (perf_counter() - begin)))
            now = perf_counter() - begin
            batch = [request for request in waiting[:_BATCH] if job.arrivals[request] <= now]
            waiting = waiting[len(batch) :]
            ids = torch.tensor([job.prompts[request] for request in batch], device=model.device)
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                min_new_tokens=job.output,
                max_new_tokens=job.output,
                do_sample=False,
                pad_token_id=0,
            )
            assert out.shape[1] == ids.shape[1] + job.output
            now = perf_counter() - begin
            for request in batch:
                answer.first[request] = answer.last[request] = now
                answer.tokens[request] = job.output
        return answer

    serve_jobs(run)


if __name__ == "__main__":
    sys.exit(main())
