"""How long prompts and outputs are."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from triptych.spec.lengths import Fixed, Lengths, LogNormal, Quantiles, Uniform
from triptych.spec.workload import Caps

Ints = NDArray[np.int64]


def draw_lengths(spec: Lengths, traced: Ints, rng: np.random.Generator) -> Ints:
    """Tokens of each request, [n] and at least 1; `traced` [n] are those of the trace."""
    n = len(traced)
    match spec:
        case Fixed(tokens=tokens):
            return np.full(n, tokens, dtype=np.int64)
        case Uniform(low=low, high=high):
            return rng.integers(low, high, n, endpoint=True)
        case LogNormal():
            return _log_normal(spec, n, rng)
        case Quantiles(points=(probabilities, tokens)):
            return _whole(np.interp(rng.random(n), probabilities, tokens))
    return traced


def cut_to_caps(caps: Caps, prompt: Ints, output: Ints) -> tuple[Ints, Ints]:
    """Prompt and output tokens [n] of requests cut to the caps."""
    if caps.prompt is not None:
        prompt = np.minimum(prompt, caps.prompt)
    if caps.output is not None:
        output = np.minimum(output, caps.output)
    if caps.total is not None:
        prompt = np.minimum(prompt, caps.total - 1)
        output = np.minimum(output, caps.total - prompt)
    return prompt, output


def _log_normal(spec: LogNormal, n: int, rng: np.random.Generator) -> Ints:
    """The mean of a log-normal is its median times exp(sigma^2 / 2)."""
    if spec.median is not None:
        median = spec.median
    else:
        assert spec.mean is not None, "checked by LogNormal"
        median = spec.mean / math.exp(spec.sigma**2 / 2)
    tokens = median * np.exp(spec.sigma * rng.standard_normal(n))
    return _whole(np.clip(tokens, spec.low, spec.high))


def _whole(tokens: NDArray[np.float64]) -> Ints:
    return np.maximum(np.rint(tokens), 1).astype(np.int64)
