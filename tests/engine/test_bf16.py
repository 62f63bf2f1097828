"""In bfloat16 the engine's logits are as near to the truth as those of `transformers` in bfloat16."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from triptych.engine import packed
from triptych.engine.loader import LoadedModel
from triptych.engine.messages import Sampling
from triptych.engine.packed import pack
from triptych.engine.runner import Runner, Work
from triptych.engine.sequence import Sequence
from triptych.policy import Request

from . import tiny

TOLERANCE = {torch.bfloat16: 1.5, torch.float32: 1.0}
"""By the format of the products: times the error of transformers in bfloat16, both as root mean squares
against float32."""
PROMPT = 40


def logits(model: LoadedModel, tokens: list[int]) -> torch.Tensor:
    """Of the last token, by the engine: a prompt in two chunks."""
    runner = Runner(model, blocks=8, block_size=16)
    sequence = Sequence("", Request(0, len(tokens), 1), tokens, Sampling(max_tokens=1), pages=list(range(8)))
    runner.logits([Work(sequence, 0, 24, False)])
    return runner.logits([Work(sequence, 24, len(tokens) - 24, True)])[0].cpu()


@pytest.mark.parametrize(
    "family", [*tiny.CONFIGS, "gemma2", "gemma3_text", "gpt2", "gpt_oss", "granite_swa", "olmo2"]
)
@pytest.mark.parametrize("products", [torch.bfloat16, torch.float32])
def test_logits_in_bfloat16(
    family: str, products: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if products is torch.float32 and tiny.DEVICE != "cpu":
        pytest.skip("only the CPU multiplies in a wider format")
    monkeypatch.setattr(packed, "_product_dtype", lambda *_: products)
    chance = random.Random(family)
    prompts = [[chance.randrange(500) for _ in range(PROMPT)] for _ in range(4)]
    truth = tiny.build(family, tmp_path, attention="eager", device="cpu")
    reference = tiny.build(family, tmp_path, attention="eager", dtype=torch.bfloat16, device="cpu")
    # The same weights: those of bfloat16.
    truth.model.load_state_dict(reference.model.float().state_dict())
    reference.model.bfloat16()
    ours = tiny.build(family, tmp_path, dtype=torch.bfloat16)
    if tiny.DEVICE == "cpu":
        pack(ours.model)
    theirs_off, ours_off = [], []
    for prompt in prompts:
        with torch.inference_mode():
            exact = truth.model(torch.tensor([prompt])).logits[0, -1]
            theirs_off.append(reference.model(torch.tensor([prompt])).logits[0, -1].float() - exact)
        ours_off.append(logits(ours, prompt) - exact)
    error, allowed = (torch.stack(off).square().mean().sqrt().item() for off in (ours_off, theirs_off))
    assert error <= TOLERANCE[products] * allowed
