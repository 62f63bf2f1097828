"""Sampling: each step against its definition, and rows that do not see each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from triptych.engine import sampler
from triptych.engine.messages import Sampling
from triptych.engine.sampler import Row, sample

VOCABULARY = 12


def row(
    sampling: Sampling, seed: int | None = 0, prompt: Sequence[int] = (), output: Sequence[int] = ()
) -> Row:
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return Row(sampling, generator, [*prompt, *output], len(prompt))


def draws(logits: torch.Tensor, sampling: Sampling, count: int = 4000) -> list[int]:
    """How often each token comes."""
    one = row(sampling)
    tokens = [sample(logits.unsqueeze(0), [one])[0][0] for _ in range(count)]
    return [tokens.count(token) for token in range(len(logits))]


def expected(logits: Sequence[float], sampling: Sampling) -> list[float]:
    """Probabilities by the definitions, in plain Python."""
    scaled = [value / sampling.temperature for value in logits]
    weights = [math.exp(value - max(scaled)) for value in scaled]
    order = sorted(range(len(logits)), key=lambda token: (-weights[token], token))
    if sampling.top_k:
        order = order[: sampling.top_k]
    total = sum(weights[token] for token in order)
    kept, mass = [], 0.0
    for token in order:
        if kept and mass >= sampling.top_p * (1 - 1e-9):
            break
        kept.append(token)
        mass += weights[token] / total
    kept = [token for token in kept if weights[token] >= sampling.min_p * weights[kept[0]]]
    total = sum(weights[token] for token in kept)
    return [weights[token] / total if token in kept else 0.0 for token in range(len(logits))]


def test_greedy_takes_the_likeliest() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, 1.0, 0.0]])
    greedy = row(Sampling(max_tokens=1, temperature=0.0))
    assert sample(logits, [greedy, greedy])[0] == [1, 0]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=1),
        Sampling(max_tokens=1, temperature=0.5),
        Sampling(max_tokens=1, top_k=3),
        Sampling(max_tokens=1, top_k=100),
        Sampling(max_tokens=1, top_p=0.6),
        Sampling(max_tokens=1, top_p=1e-9),
        Sampling(max_tokens=1, min_p=0.3),
        Sampling(max_tokens=1, min_p=1.0),
        Sampling(max_tokens=1, top_k=6, top_p=0.7),
        Sampling(max_tokens=1, temperature=2.0, top_k=5, top_p=0.9, min_p=0.1),
    ],
    ids=str,
)
@pytest.mark.parametrize("head", [1, 4, 1024])
def test_tokens_come_as_often_as_they_should(
    sampling: Sampling, head: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "_HEAD", head)
    logits = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(3)) * 1.5
    probabilities = expected(logits.tolist(), sampling)
    counts = draws(logits, sampling)
    total = sum(counts)
    for count, probability in zip(counts, probabilities, strict=True):
        if probability == 0:
            assert count == 0
        else:
            deviation = math.sqrt(total * probability * (1 - probability))
            assert abs(count - total * probability) <= 5 * deviation + 1e-9


def test_rows_are_cut_each_by_its_own_limits() -> None:
    logits = torch.arange(12.0).repeat(4, 1) / 4
    cuts = [Sampling(1, top_k=1), Sampling(1), Sampling(1, top_p=1e-9), Sampling(1, top_k=2)]
    drawn = [sample(logits, [row(cut, None) for cut in cuts])[0] for _ in range(200)]
    kept = [set(tokens) for tokens in zip(*drawn, strict=True)]
    assert (kept[0], kept[2], kept[3]) == ({11}, {11}, {10, 11})
    assert len(kept[1]) > 8


def test_what_is_no_number_gives_a_token_all_the_same() -> None:
    ((token,), _) = sample(torch.full((1, VOCABULARY), torch.nan), [row(Sampling(max_tokens=1))])
    assert 0 <= token < VOCABULARY


def test_equal_logits_are_all_drawn() -> None:
    assert all(draws(torch.zeros(4), Sampling(max_tokens=1), 400))


def test_a_seed_repeats_the_draws_whatever_else_is_in_the_batch() -> None:
    logits = torch.randn(5, VOCABULARY)
    sampling = Sampling(max_tokens=1, seed=7)
    alone, among = row(sampling, 7), row(sampling, 7)
    others = [row(Sampling(max_tokens=1, top_k=2), 1), row(Sampling(max_tokens=1, temperature=0.0))]
    for step in range(20):
        one = sample(logits[step % 5 : step % 5 + 1], [alone])[0][0]
        batch = torch.stack([logits[0], logits[1], logits[step % 5]])
        assert sample(batch, [*others, among])[0][2] == one


@given(
    values=st.lists(st.floats(-4, 4), min_size=VOCABULARY, max_size=VOCABULARY),
    prompt=st.lists(st.integers(0, VOCABULARY - 1), max_size=5),
    output=st.lists(st.integers(0, VOCABULARY - 1), max_size=8),
    presence=st.floats(-2, 2),
    frequency=st.floats(-2, 2),
    repetition=st.floats(0.5, 2),
)
def test_penalties(
    values: list[float],
    prompt: list[int],
    output: list[int],
    presence: float,
    frequency: float,
    repetition: float,
) -> None:
    logits = torch.tensor([values])
    before = logits.clone()
    sampling = Sampling(
        max_tokens=1,
        temperature=0.0,
        presence_penalty=presence,
        frequency_penalty=frequency,
        repetition_penalty=repetition,
    )
    wanted = []
    for token, value in enumerate(logits[0].tolist()):
        if token in prompt or token in output:
            value = value / repetition if value > 0 else value * repetition
        wanted.append(value - frequency * output.count(token) - presence * (token in output))
    token = sample(logits, [row(sampling, prompt=prompt, output=output)])[0][0]
    assert wanted[token] == pytest.approx(max(wanted), abs=1e-4)
    assert torch.equal(logits, before)


def test_log_probabilities_are_those_of_the_model() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 0.0]])
    asked = row(Sampling(max_tokens=1, temperature=0.0, logprobs=2, presence_penalty=9.0), output=[1])
    tokens, logprobs = sample(logits, [asked, row(Sampling(max_tokens=1))])
    of_row = logits[0].log_softmax(-1).tolist()
    assert tokens[0] == 0
    assert logprobs[1] is None
    assert logprobs[0] is not None
    assert logprobs[0].logprob == pytest.approx(of_row[0])
    assert [token for token, _ in logprobs[0].top] == [1, 0]
    assert [value for _, value in logprobs[0].top] == pytest.approx([of_row[1], of_row[0]])


def test_a_bias_is_added_before_all_else_to_its_own_row_alone() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.5], [1.0, 2.0, 0.5], [1.0, 2.0, 0.5]])
    before = logits.clone()
    plain = Sampling(max_tokens=1, temperature=0.0, logprobs=0)
    biased = Sampling(max_tokens=1, temperature=0.0, logprobs=0, logit_bias=((2, 100.0), (1, -0.5)))
    # -1.5 is divided by 0.5 where the bias comes first, and would be 1.5 where it comes last.
    both = Sampling(max_tokens=1, temperature=0.0, repetition_penalty=0.5, logit_bias=((1, -3.5), (0, -2.75)))
    tokens, logprobs = sample(logits, [row(plain), row(biased), row(both, prompt=[1, 0])])
    assert tokens == [1, 2, 2]
    assert torch.equal(logits, before)
    of_row = logits[0].log_softmax(-1).tolist()
    assert [one and round(one.logprob, 5) for one in logprobs] == [
        round(of_row[1], 5), round(of_row[2], 5), None
    ]  # fmt: skip


def test_a_bias_bars_a_token_from_the_draws() -> None:
    counts = draws(torch.zeros(4), Sampling(max_tokens=1, logit_bias=((1, -100.0), (3, -100.0))), 200)
    assert (counts[1], counts[3]) == (0, 0)
    assert min(counts[0], counts[2]) > 0
