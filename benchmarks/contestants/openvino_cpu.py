"""OpenVINO GenAI, in an environment of its own: openvino-genai, optimum-intel and their transformers."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, sleep

import numpy as np
import openvino
import openvino_genai as genai
from common import Answer, Job, arguments, serve_jobs
from optimum.intel.openvino import OVModelForCausalLM

_CACHE_GB = 2


def main() -> None:
    """Answers jobs."""
    options = arguments()
    with TemporaryDirectory() as folder:
        OVModelForCausalLM.from_pretrained(
            options.model, export=True, load_in_8bit=False, compile=False
        ).save_pretrained(folder)
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = _CACHE_GB
        scheduler.max_num_batched_tokens = options.chunk
        scheduler.max_num_seqs = 64
        scheduler.enable_prefix_caching = False
        precision = {"bf16": "bf16", "fp32": "f32"}[options.dtype]
        threads = int(os.environ["OMP_NUM_THREADS"])
        engine = genai.ContinuousBatchingPipeline(
            Path(folder),
            scheduler,
            "CPU",
            {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads},
        )

    def run(job: Job) -> Answer:
        wanted = genai.GenerationConfig()
        wanted.max_new_tokens, wanted.ignore_eos, wanted.do_sample = job.output, True, False
        answer = Answer.of(job)
        to_come = list(range(len(job.prompts)))[::-1]
        running = {}
        begin = perf_counter()
        while to_come or running:
            now = perf_counter() - begin
            if not running and now < job.arrivals[to_come[-1]]:
                sleep(job.arrivals[to_come[-1]] - now)
                now = job.arrivals[to_come[-1]]
            while to_come and job.arrivals[to_come[-1]] <= now:
                request = to_come.pop()
                prompt = openvino.Tensor(np.array([job.prompts[request]], dtype=np.int64))
                running[request] = engine.add_request(request, prompt, wanted)
            engine.step()
            now = perf_counter() - begin
            for request, handle in list(running.items()):
                while handle.can_read():
                    for output in handle.read().values():
                        for _ in output.generated_ids:
                            answer.token(request, now)
                if answer.tokens[request] >= job.output:
                    del running[request]
        return answer

    serve_jobs(run)


if __name__ == "__main__":
    sys.exit(main())
