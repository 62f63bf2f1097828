"""From logits to tokens, a row a sequence.

The order of the steps is that of `transformers`: bias, penalties, temperature, top-k, top-p, min-p, and a
draw from what is left. A row's token depends on nothing but the row: draws use the row's own generator where
it has one, and log-probabilities are those of the model, before all of these steps, as the OpenAI API reports
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from triptych.engine.messages import Sampling, TokenLogprob

_HEAD = 1024
"""Likeliest tokens among which top-k and top-p are looked for first: sorting all of a vocabulary of 150,000
takes 12 ms, which is more than the share of a row in running a small model."""


class Row(NamedTuple):
    """Whose logits a row holds."""

    sampling: Sampling
    generator: torch.Generator | None
    """On the CPU; None: torch's own."""
    tokens: Sequence[int]
    """Prompt, and what has been generated."""
    prompt_tokens: int
    """How many of them are the prompt."""


def sample(logits: Tensor, rows: Sequence[Row]) -> tuple[list[int], list[TokenLogprob | None]]:
    """The next token of each row.

    Args:
        logits: float32, shape (rows, vocabulary); left as they are.
        rows: in the same order.

    Returns:
        Tokens, and the log-probabilities of those rows that asked for them.
    """
    logprobs = _logprobs(logits, rows)
    scores = _penalised(logits, rows)
    tokens: list[int] = scores.argmax(-1).tolist()
    drawn = [index for index, row in enumerate(rows) if row.sampling.temperature > 0]
    if drawn:
        probabilities = _probabilities(scores[drawn], [rows[index].sampling for index in drawn])
        for index, token in zip(drawn, _draw(probabilities, [rows[i].generator for i in drawn]), strict=True):
            tokens[index] = token
    chosen = [
        None if of_row is None else _describe(of_row, token, row.sampling.logprobs or 0)
        for of_row, token, row in zip(logprobs, tokens, rows, strict=True)
    ]
    return tokens, chosen


def _logprobs(logits: Tensor, rows: Sequence[Row]) -> list[Tensor | None]:
    """Log-probabilities of the rows that asked for them, each of shape (vocabulary,)."""
    asked = [index for index, row in enumerate(rows) if row.sampling.logprobs is not None]
    found: list[Tensor | None] = [None] * len(rows)
    if asked:
        for index, of_row in zip(asked, logits[asked].log_softmax(-1), strict=True):
            found[index] = of_row
    return found


def _describe(logprobs: Tensor, token: int, count: int) -> TokenLogprob:
    values, tokens = logprobs.topk(min(count, len(logprobs)))
    return TokenLogprob(float(logprobs[token]), list(zip(tokens.tolist(), values.tolist(), strict=True)))


def _penalised(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Logits after the biases and penalties of the rows that have any.

    Sources: bias, before all else: the OpenAI API, `transformers`, vLLM; presence and frequency: the OpenAI
    API; repetition: Keskar et al., "CTRL", 2019, over prompt and output as in `transformers`.
    """
    scores = logits
    for index, (sampling, _, tokens, prompt_tokens) in enumerate(rows):
        repetition, bias = sampling.repetition_penalty, sampling.logit_bias
        penalised = sampling.presence_penalty or sampling.frequency_penalty
        if repetition == 1.0 and not penalised and not bias:
            continue
        if scores is logits:
            scores = logits.clone()
        row = scores[index]
        if bias:
            biased = torch.tensor([token for token, _ in bias], device=row.device)
            row[biased] += torch.tensor([added for _, added in bias], dtype=row.dtype, device=row.device)
        if repetition != 1.0 and tokens:
            seen = torch.tensor(sorted(set(tokens)), device=row.device)
            values = row[seen]
            row[seen] = torch.where(values > 0, values / repetition, values * repetition)
        generated = tokens[prompt_tokens:]
        if generated and penalised:
            counts = torch.bincount(torch.tensor(generated), minlength=len(row)).to(row.device)
            row -= sampling.frequency_penalty * counts + sampling.presence_penalty * (counts > 0)
    return scores


def _probabilities(scores: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """What is left to draw from, shape (rows, vocabulary), not normalised."""
    scores = scores / _column([sampling.temperature for sampling in samplings], scores)
    vocabulary = scores.shape[-1]
    cut = [index for index, row in enumerate(samplings) if 0 < row.top_k < vocabulary or row.top_p < 1]
    if cut:
        top_k = _column([min(samplings[index].top_k, vocabulary) or vocabulary for index in cut], scores)
        top_p = _column([samplings[index].top_p for index in cut], scores)
        scores[cut] = _likeliest(scores[cut], top_k, top_p, _HEAD)
    probabilities = scores.softmax(-1)
    if any(sampling.min_p for sampling in samplings):
        least = _column([sampling.min_p for sampling in samplings], scores)
        probabilities[probabilities < least * probabilities.amax(-1, keepdim=True)] = 0.0
    return probabilities


def _likeliest(scores: Tensor, top_k: Tensor, top_p: Tensor, size: int) -> Tensor:
    """The scores of the top k, and of these the top p; minus infinity for all others.

    Args:
        scores: shape (rows, vocabulary).
        top_k: shape (rows, 1); the vocabulary for all.
        top_p: shape (rows, 1).
        size: how many are sorted at first; all are where these do not settle it.
    """
    vocabulary = scores.shape[-1]
    ordered, tokens = scores.topk(min(size, vocabulary))
    ordered = ordered.masked_fill(torch.arange(ordered.shape[-1], device=scores.device) >= top_k, -torch.inf)
    kept = torch.where(top_k < vocabulary, ordered.logsumexp(-1, True), scores.logsumexp(-1, True))
    probabilities = (ordered - kept).exp()
    # A token is kept while those before it have less than top_p, so the likeliest always is.
    outside = probabilities.cumsum(-1) - probabilities >= top_p
    outside[:, 0] = False
    found = torch.full_like(scores, -torch.inf)
    found.scatter_(-1, tokens, ordered.masked_fill(outside, -torch.inf))
    open_ended = (top_k > size) & ((top_k < vocabulary) | ~outside[:, -1:])
    rows = open_ended.flatten().nonzero().flatten()
    if size < vocabulary and len(rows):
        found[rows] = _likeliest(scores[rows], top_k[rows], top_p[rows], vocabulary)
    return found


def _draw(probabilities: Tensor, generators: Sequence[torch.Generator | None]) -> list[int]:
    """A token of each row by its probability: where a random number falls among their running sums."""
    sums = probabilities.cumsum(-1, dtype=torch.float64)
    numbers = torch.stack([torch.rand(1, dtype=sums.dtype, generator=one) for one in generators])
    tokens = torch.searchsorted(sums, numbers.to(sums.device) * sums[:, -1:], right=True)
    # What is no number, as logits that overflow, falls behind all of them.
    found: list[int] = tokens.clamp(max=sums.shape[-1] - 1).flatten().tolist()
    return found


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).unsqueeze(-1)
