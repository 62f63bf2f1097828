"""Linear layers on the CPU: weights laid out as oneDNN wants them, activation functions in the same pass.

oneDNN rearranges a weight for its kernels at every call unless it is given one that it has rearranged before,
which matters most for the few rows of a decode step. A ReLU in a pass of its own over the rows of a prefill
costs a third of the product before it. And processors without matrix units for bfloat16 (AMX) multiply it at
half the speed of float32 or less: there the whole model is kept in float32, which is also the more exact, and
only KV stays in the format that was asked for.
"""

from __future__ import annotations

from copy import deepcopy
from time import perf_counter

import psutil
import torch
from torch import Tensor, nn

_ROWS = 512
"""Of the product by which the number formats are compared."""
_REPEATS = 5
_FUSED: tuple[tuple[str, str], ...] = (("fc1", "activation_fn"), ("gate_proj", "act_fn"))
"""A linear layer, and the function that its module applies to what comes out of it."""
_ACTIVATIONS: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.SiLU: "swish"}


class PackedLinear(nn.Module):
    """As the layer it is made of, which can be dropped then.

    Args:
        linear: the layer.
        activation: oneDNN's name of a function of the output.
    """

    def __init__(self, linear: nn.Linear, activation: str = "none") -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._activation = activation
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, rows: Tensor) -> Tensor:
        """Shape (..., in_features) to (..., out_features)."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            rows, self._weight, self._bias, self._activation, [], ""
        )
        return out


def pack(model: nn.Module) -> torch.dtype | None:
    """Packs all linear layers of a model in place, in the number format in which they are multiplied fastest.

    Returns:
        That format, which all of the model then has; None where nothing was packed, for want of oneDNN or of
        layers.
    """
    first = next((module for module in model.modules() if type(module) is nn.Linear), None)
    if first is None or not torch.backends.mkldnn.is_available():
        return None
    dtype = _product_dtype(model, first)
    model.to(dtype)
    for module in list(model.modules()):
        for name, linear in list(module.named_children()):
            if type(linear) is nn.Linear:
                setattr(module, name, PackedLinear(linear, _fuse(module, name)))
    return dtype


def _fuse(module: nn.Module, name: str) -> str:
    """Takes over the activation function behind a layer; returns its name."""
    for layer, function in _FUSED:
        if name == layer:
            applied: nn.Module = getattr(module, function, nn.Identity())
            activation = _ACTIVATIONS.get(type(applied))
            if activation is not None:
                setattr(module, function, nn.Identity())
                return activation
    return "none"


def _product_dtype(model: nn.Module, linear: nn.Linear) -> torch.dtype:
    """The faster format for products, if there is memory for it."""
    own = linear.weight.dtype
    if own is torch.float32:
        return own
    wider = 4 * sum(weight.numel() for weight in model.parameters())
    if wider > psutil.virtual_memory().available / 2:
        return own
    return min((own, torch.float32), key=lambda dtype: _seconds(linear, dtype))


def _seconds(linear: nn.Linear, dtype: torch.dtype) -> float:
    packed = PackedLinear(deepcopy(linear).to(dtype))
    rows = torch.ones(_ROWS, linear.in_features, dtype=dtype)
    times = []
    for _ in range(_REPEATS):
        begin = perf_counter()
        packed(rows)
        times.append(perf_counter() - begin)
    return min(times)
