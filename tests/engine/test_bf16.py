"""In bfloat16 the engine's logits are as near to the truth as those of `transformers` in bfloat16."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from triptych.engine.attention import Attention
from triptych.engine.kernels.candidates import attention
from triptych.engine.kernels.linear import pack
from triptych.engine.loader import LoadedModel
from triptych.engine.messages import Sampling
from triptych.engine.runner import Runner, Work
from triptych.engine.sequence import Sequence
from triptych.policy import Request

from . import tiny

TOLERANCE = {
    (torch.bfloat16, True): 1.5,
    (torch.bfloat16, False): 1.5,
    (torch.float32, True): 1.0,
    (torch.float32, False): 2.0,
}
"""By the format of the products, and whether flash attends, which alone has scores in float32 over KV in
bfloat16: times the error of transformers in bfloat16, both as root mean squares against float32."""
KERNELS = [("flash", "flash"), ("blocks of 64", "embedding bags"), ("blocks of 64 in fp32", "products")]
"""Kernels of prompts and of single tokens."""
PROMPT = 40


def logits(model: LoadedModel, tokens: list[int], attention: Attention | None) -> torch.Tensor:
    """Logits of the last token, by the engine: a prompt in two chunks, and a decode."""
    runner = Runner(model, blocks=8, block_size=16, attention=attention)
    sequence = Sequence("", Request(0, len(tokens), 1), tokens, Sampling(max_tokens=1), pages=list(range(8)))
    runner.logits([Work(sequence, 0, 24, False)])
    runner.logits([Work(sequence, 24, len(tokens) - 25, False)])
    return runner.logits([Work(sequence, len(tokens) - 1, 1, True)])[0].cpu()


@pytest.mark.parametrize(
    "family", [*tiny.CONFIGS, "gemma2", "gemma3_text", "gpt2", "gpt_oss", "granite_swa", "olmo2"]
)
@pytest.mark.parametrize("products", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kernels", KERNELS, ids=" ".join)
def test_logits_in_bfloat16(
    family: str, products: torch.dtype, kernels: tuple[str, str], tmp_path: Path
) -> None:
    if products is torch.float32 and tiny.DEVICE != "cpu":
        pytest.skip("only the CPU multiplies in a wider format")
    if kernels != KERNELS[0] and tiny.DEVICE != "cpu":
        pytest.skip("only the CPU has a choice of kernels")
    chance = random.Random(family)
    prompts = [[chance.randrange(500) for _ in range(PROMPT)] for _ in range(4)]
    truth = tiny.build(family, tmp_path, attention="eager", device="cpu")
    reference = tiny.build(family, tmp_path, attention="eager", dtype=torch.bfloat16, device="cpu")
    # The same weights: those of bfloat16.
    truth.model.load_state_dict(reference.model.float().state_dict())
    reference.model.bfloat16()
    ours = tiny.build(family, tmp_path, dtype=torch.bfloat16)
    if tiny.DEVICE == "cpu":
        pack(ours.model, products)
    theirs_off, ours_off = [], []
    for prompt in prompts:
        with torch.inference_mode():
            exact = truth.model(torch.tensor([prompt])).logits[0, -1]
            theirs_off.append(reference.model(torch.tensor([prompt])).logits[0, -1].float() - exact)
        chosen = attention(*kernels) if tiny.DEVICE == "cpu" else None
        ours_off.append(logits(ours, prompt, chosen) - exact)
    error, allowed = (torch.stack(off).square().mean().sqrt().item() for off in (ours_off, theirs_off))
    assert error <= TOLERANCE[products, kernels == KERNELS[0]] * allowed
