"""NVTX ranges around the operators of a model, for profilers of CUDA."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def begin_range(name: str) -> Any:
    """A hook before a module's forward."""

    def hook(module: nn.Module, inputs: Any) -> None:
        torch.cuda.nvtx.range_push(name)

    return hook


def end_range(module: nn.Module, inputs: Any, output: Any) -> None:
    """A hook behind it."""
    torch.cuda.nvtx.range_pop()
