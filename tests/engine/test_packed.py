"""Packed layers compute what the layers that they are made of compute."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from triptych.engine import packed
from triptych.engine.packed import PackedLinear, pack


class Plain(nn.Module):
    """OPT's way."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.activation_fn, self.fc2 = nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 16)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc2(self.activation_fn(self.fc1(rows)))
        return out


class Gated(nn.Module):
    """Llama's way."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(16, 48, bias=False), nn.Linear(16, 48, bias=False)
        self.act_fn, self.down_proj = nn.SiLU(), nn.Linear(48, 16, bias=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.down_proj(self.act_fn(self.gate_proj(rows)) * self.up_proj(rows))
        return out


@pytest.mark.parametrize("kind", [Plain, Gated])
@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 20, 300])
def test_a_packed_model_gives_the_same(
    kind: type[Plain | Gated], products: torch.dtype, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = kind()
    dtype = torch.float32
    if products is torch.bfloat16:
        dtype = torch.bfloat16
        monkeypatch.setattr(packed, "_product_dtype", lambda *_: products)
    model = model.to(dtype)
    x = torch.randn(2, rows, 16, dtype=dtype)
    with torch.inference_mode():
        expected = model(x)
        assert pack(model) is products
        found = model(x)
    assert found.dtype is dtype
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    assert sum(isinstance(module, PackedLinear) for module in model.modules()) == (2 if kind is Plain else 3)
    assert any(isinstance(module, nn.Identity) for module in model.modules())


def test_bfloat16_layers_multiplied_in_float32_are_nearer_to_the_truth() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 64).bfloat16()
    x = torch.randn(50, 64).bfloat16()
    with torch.inference_mode():
        truth = nn.functional.linear(x.double(), linear.weight.double(), linear.bias.double())
        wide = PackedLinear(linear, torch.float32)(x)
    assert wide.dtype is torch.bfloat16
    assert torch.equal(wide, truth.bfloat16())


def test_other_layers_are_left_alone() -> None:
    class Special(nn.Linear):
        """Computes something of its own."""

    model = nn.Sequential(Special(4, 4), nn.LayerNorm(4))
    assert pack(model) is None
    assert isinstance(model[0], Special)
