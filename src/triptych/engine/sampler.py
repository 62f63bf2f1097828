"""From logits to tokens, a row a sequence.

The order of the steps is that of `transformers`: penalties, temperature, top-k, top-p, min-p, and a draw
from what is left. A row's token depends on nothing but the row: draws use the row's own generator where it
has one, and log-probabilities are those of the model, before all of these steps, as the OpenAI API reports
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from triptych.engine.messages import Sampling, TokenLogprob


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
        for place, index in enumerate(drawn):
            tokens[index] = _draw(probabilities[place], rows[index].generator)
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
    """Logits after the penalties of the rows that have any.

    Sources: presence and frequency: the OpenAI API; repetition: Keskar et al., "CTRL", 2019, over prompt and
    output as in `transformers`.
    """
    scores = logits
    for index, (sampling, _, tokens, prompt_tokens) in enumerate(rows):
        repetition = sampling.repetition_penalty
        if repetition == 1.0 and not sampling.presence_penalty and not sampling.frequency_penalty:
            continue
        if scores is logits:
            scores = logits.clone()
        row = scores[index]
        if repetition != 1.0 and tokens:
            seen = torch.tensor(sorted(set(tokens)), device=row.device)
            values = row[seen]
            row[seen] = torch.where(values > 0, values / repetition, values * repetition)
        generated = tokens[prompt_tokens:]
        if generated:
            counts = torch.bincount(torch.tensor(generated), minlength=len(row)).to(row.device)
            row -= sampling.frequency_penalty * counts + sampling.presence_penalty * (counts > 0)
    return scores


def _probabilities(scores: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """What is left to draw from, shape (rows, vocabulary), not normalised."""
    scores = scores / _column([sampling.temperature for sampling in samplings], scores)
    vocabulary = scores.shape[-1]
    top_k = [min(sampling.top_k, vocabulary) or vocabulary for sampling in samplings]
    if any(k < vocabulary for k in top_k) or any(sampling.top_p < 1 for sampling in samplings):
        ordered, tokens = scores.sort(dim=-1, descending=True, stable=True)
        place = torch.arange(vocabulary, device=scores.device)
        ordered = ordered.masked_fill(place >= _column(top_k, scores), -torch.inf)
        probabilities = ordered.softmax(-1)
        # A token is kept while those before it have less than top_p, so the likeliest always is.
        before = probabilities.cumsum(-1) - probabilities
        outside = before >= _column([sampling.top_p for sampling in samplings], scores)
        outside[:, 0] = False
        ordered = ordered.masked_fill(outside, -torch.inf)
        scores = torch.empty_like(scores).scatter_(-1, tokens, ordered)
    probabilities = scores.softmax(-1)
    least = _column([sampling.min_p for sampling in samplings], scores)
    return probabilities.masked_fill(probabilities < least * probabilities.amax(-1, keepdim=True), 0.0)


def _draw(probabilities: Tensor, generator: torch.Generator | None) -> int:
    """A token by its probability: the first to come of exponential clocks whose rates they are."""
    noise = torch.empty(len(probabilities)).exponential_(generator=generator).to(probabilities.device)
    return int((probabilities / noise).argmax())


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).unsqueeze(-1)
