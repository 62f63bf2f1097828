"""Triptych's engine, in process: what a worker does, without its sockets."""

from __future__ import annotations

import sys
from pathlib import Path
from time import perf_counter, sleep

from common import Answer, Job, arguments, serve_jobs

from triptych.engine.build import build
from triptych.engine.messages import Sampling, Submit
from triptych.spec.deployment import Deployment

_BLOCK = 16
"""Tokens of a KV block, the default of a deployment."""


def main() -> None:
    """Answers jobs."""
    options = arguments()
    deployment = Deployment.parse(
        {
            "model": options.model,
            "pools": {
                "all": {
                    "phases": ["prefill", "decode"],
                    "device": options.device,
                    "precision": dict.fromkeys(("weights", "kv", "compute"), options.dtype),
                    "scheduler": {"policy": "unified", "max_batch": 64, "max_tokens": options.chunk},
                    "kv_blocks": -(-options.tokens // _BLOCK),
                }
            },
        }
    )
    engine = build(deployment, Path(__file__)).engine

    def run(job: Job) -> Answer:
        to_come = [
            (
                due,
                Submit(
                    str(number), prompt, Sampling(max_tokens=job.output, temperature=0.0, ignore_eos=True)
                ),
            )
            for number, (due, prompt) in enumerate(zip(job.arrivals, job.prompts, strict=True))
        ][::-1]
        answer = Answer.of(job)
        begin = perf_counter()
        while to_come or engine.busy:
            now = perf_counter() - begin
            if not engine.busy and now < to_come[-1][0]:
                sleep(to_come[-1][0] - now)
                now = to_come[-1][0]
            due = []
            while to_come and to_come[-1][0] <= now:
                due.append(to_come.pop()[1])
            outputs = engine.turn(due)
            now = perf_counter() - begin
            for output in outputs:
                answer.token(int(output.id), now)
            engine.compute()
        return answer

    serve_jobs(run)


if __name__ == "__main__":
    sys.exit(main())
