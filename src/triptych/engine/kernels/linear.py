"""Linear layers on the CPU: weights laid out as oneDNN wants them, activation functions in the same pass.

oneDNN rearranges a weight for its kernels at every call unless it is given one that it has rearranged before,
which matters most for the few rows of a decode step. A ReLU in a pass of its own over the rows of a prefill
costs a third of the product before it. Some processors multiply bfloat16 at half the speed of float32, others
at twice: where a trial finds float32 the faster, the whole model is kept in it, which is also the more exact.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

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


def can_pack(model: nn.Module) -> bool:
    """Whether there is oneDNN, and a linear layer for it."""
    linear = any(type(module) is nn.Linear for module in model.modules())
    return linear and torch.backends.mkldnn.is_available()


def pack(model: nn.Module, dtype: torch.dtype) -> bool:
    """Packs all linear layers of a model in place, and keeps all of it in a number format.

    Returns:
        Whether anything was packed; if not, the model stays as it was.
    """
    if not can_pack(model):
        return False
    model.to(dtype)
    for module in list(model.modules()):
        for name, linear in list(module.named_children()):
            if type(linear) is nn.Linear:
                setattr(module, name, PackedLinear(linear, _fuse(module, name)))
    return True


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
