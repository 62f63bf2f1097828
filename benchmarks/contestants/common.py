"""What contestants share: jobs come as JSON lines on standard input, answers go back on standard output.

Uses the standard library alone: other engines live in environments of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

_ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what libraries print must not be taken for answers


@dataclass
class Job:
    """Requests of one run. All greedy, and of a fixed length whatever comes."""

    prompts: list[list[int]]
    arrivals: list[float]
    """Seconds from the begin."""
    output: int
    """Tokens of each answer."""


@dataclass
class Answer:
    """When the tokens of each request came, in seconds from the begin of the run."""

    first: list[float]
    last: list[float]
    tokens: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, job: Job) -> Answer:
        """Nothing has come yet."""
        count = len(job.prompts)
        return cls([0.0] * count, [0.0] * count, [0] * count)

    def token(self, request: int, now: float) -> None:
        """A token of a request has come."""
        if not self.tokens[request]:
            self.first[request] = now
        self.tokens[request] += 1
        self.last[request] = now


def arguments() -> argparse.Namespace:
    """The model folder, its number format, the chunk of prompts and the tokens of KV."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", choices=["bf16", "fp32"], required=True)
    parser.add_argument("--device", default="CPU", help="a name of the device catalogue")
    parser.add_argument("--chunk", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=16_384, help="of KV that a job needs")
    return parser.parse_args()


def serve_jobs(run: Callable[[Job], Answer]) -> None:
    """Says that it is ready, then answers jobs until there are no more."""
    print("ready", file=_ANSWERS, flush=True)
    for line in sys.stdin:
        answer = run(Job(**json.loads(line)))
        print(json.dumps(asdict(answer)), file=_ANSWERS, flush=True)
