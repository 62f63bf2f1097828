"""Which experts a batch goes to: counted, or held to so many, as a batch of like tokens would."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Routing:
    """Stands behind the routers of a model.

    Args:
        model: its routers get hooks.
    """

    def __init__(self, model: nn.Module) -> None:
        self.limit = 0
        """Experts that tokens may go to; 0: wherever they go."""
        self._touched: list[int] | None = None
        for path, module in model.named_modules():
            if path.endswith(".mlp.gate"):
                module.register_forward_hook(self._route)

    def begin(self) -> None:
        """Counts from now on, which takes time: not in a pass that is measured."""
        self._touched = []

    def end(self) -> float:
        """Experts of a layer that were touched since, on average; 0 where there are none."""
        touched, self._touched = self._touched or [], None
        return sum(touched) / len(touched) if touched else 0.0

    def _route(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if self._touched is None and not self.limit:
            return None
        parts = list(output)
        place = next(index for index, part in enumerate(parts) if not part.is_floating_point())
        if self.limit:
            parts[place] = self._held(parts[place])
        if self._touched is not None:
            self._touched.append(int(parts[place].unique().numel()))
        return tuple(parts)

    def _held(self, chosen: Tensor) -> Tensor:
        """Experts dealt round to all tokens, shape (tokens, top_k)."""
        rows, columns = chosen.shape
        dealt = torch.arange(rows * columns, device=chosen.device, dtype=chosen.dtype)
        return (dealt % self.limit).view(rows, columns)
