"""Packed layers compute what the layers that they are made of compute."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from triptych.engine.kernels.linear import PackedLinear, pack


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
def test_a_packed_model_gives_the_same(kind: type[Plain | Gated], products: torch.dtype, rows: int) -> None:
    torch.manual_seed(0)
    model = kind()
    model = model.to(products)
    x = torch.randn(2, rows, 16, dtype=products)
    with torch.inference_mode():
        expected = model(x)
        assert pack(model, products)
        found = model(x)
    assert found.dtype is products
    tolerance = 1e-5 if products is torch.float32 else 2e-2
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    assert sum(isinstance(module, PackedLinear) for module in model.modules()) == (2 if kind is Plain else 3)
    assert any(isinstance(module, nn.Identity) for module in model.modules())


def test_a_model_may_be_kept_in_a_wider_format() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 8)).bfloat16()
    exact = deepcopy(model).double()
    assert pack(model, torch.float32)
    x = torch.randn(50, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), exact(x.double()).float(), rtol=1e-5, atol=1e-5)


def test_other_layers_are_left_alone() -> None:
    class Special(nn.Linear):
        """Computes something of its own."""

    model = nn.Sequential(Special(4, 4), nn.LayerNorm(4))
    assert not pack(model, torch.float32)
    assert isinstance(model[0], Special)
