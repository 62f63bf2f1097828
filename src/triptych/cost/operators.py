"""What one operator costs in FLOP and bytes, and the kinds of operators that models are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from triptych.cost.collectives import Collective
from triptych.cost.loads import Floats, Load, Over
from triptych.spec.deployment import Precisions
from triptych.spec.device import BYTES_PER_ELEMENT, Precision

Kind = Literal["matmul", "attention", "memory", "network"]
Part = Literal["embedding", "layer", "dense_layer", "expert_layer", "head", "vision"]
"""Where it runs: once with the embedding or the head, in every layer, in every layer that has a plain
MLP or experts, or in the vision tower."""


def all_weights(units: Floats) -> Floats:
    """The whole matrix is read, whatever the number of tokens."""
    return np.ones_like(units)


def no_weights(units: Floats) -> Floats:
    """A table of which only the tokens' own rows are read."""
    return np.zeros_like(units)


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator on one device; FLOP and bytes are linear in its load but for the weights' share.

    Elementwise operators have no FLOP here: they are bound by memory everywhere, and FLOP counts are then
    those of the matrix products, as in MFU.
    """

    name: str
    kind: Kind
    part: Part
    over: Over
    times: int = 1
    """How often it runs in its part: in each layer, or in the vision tower as a whole."""
    flop: float = 0.0
    """Per unit of load; of attention per query-key pair."""
    precision: Precision = "bf16"
    """Of the operands, which sets the device's FLOP/s."""
    weights: float = 0.0
    """Bytes of weights that lie on the device."""
    share: Callable[[Floats], Floats] = all_weights
    """Of the weights, the share that so many units read."""
    kv: float = 0.0
    """Bytes per token read from the KV cache."""
    traffic: float = 0.0
    """Bytes of activations read and written per unit; of a collective, of its message."""
    collective: Collective | None = None
    inputs: float = 0.0
    """Of a matrix: its rows."""
    outputs: float = 0.0
    """Of a matrix: its columns."""
    heads: float = 0.0
    """Of attention: query heads."""
    kv_heads: float = 0.0
    head_dim: int = 0
    experts: int = 0
    """Among which the tokens are spread, where it is a matrix of experts."""
    top_k: int = 0
    groups: int = 1
    """Of devices, that the experts are dealt to."""

    def flops(self, load: Load) -> Floats:
        """FLOP of one run, for each element of the load."""
        return self.flop * (load.pairs if self.kind == "attention" else load.units)

    def moved(self, load: Load) -> Floats:
        """Bytes that one run cannot avoid reading: weights and KV."""
        weights = np.where(load.units > 0, self.weights * self.share(load.units), 0.0)
        return weights + self.kv * load.kv

    def bytes(self, load: Load) -> Floats:
        """Bytes of one run: weights, KV and activations (of a collective: of its message)."""
        return self.moved(load) + self.traffic * load.units


def expert_share(count: int, top_k: int) -> Callable[[Floats], Floats]:
    """The expected share of experts that at least one of n tokens is sent to: 1 - (1 - k/E)^n.

    Each token picks k of E experts, all equally likely and independent of the other tokens.
    """
    return lambda units: 1.0 - (1.0 - top_k / count) ** units


@dataclass(frozen=True, slots=True)
class Formats:
    """Bytes and number formats that follow from a pool's precision.

    Quantised checkpoints quantise the linear layers and leave embedding, head, norms, biases and expert
    routers in 16 bits, and kernels hand 16-bit activations on; attention works in the precision of
    the KV cache where both that and the linear layers are narrow.
    """

    weights: float
    kv: float
    activations: float
    linear: Precision
    wide: Precision
    """Of the head and the router."""
    attention: Precision
    wide_weights: float = field(init=False)

    @classmethod
    def of(cls, precision: Precisions) -> Formats:
        """The formats of a pool."""
        compute = precision.compute
        narrow = BYTES_PER_ELEMENT[compute] < 2
        wide: Precision = "bf16" if narrow else compute
        return cls(
            weights=BYTES_PER_ELEMENT[precision.weights],
            kv=BYTES_PER_ELEMENT[precision.kv],
            activations=BYTES_PER_ELEMENT[wide],
            linear=compute,
            wide=wide,
            attention=compute if narrow and precision.kv == compute else wide,
        )

    def __post_init__(self) -> None:
        object.__setattr__(self, "wide_weights", max(2.0, self.weights))


def matmul(
    name: str,
    part: Part,
    formats: Formats,
    inputs: float,
    outputs: float,
    *,
    over: Over = "tokens",
    times: int = 1,
    bias: bool = False,
    wide: bool = False,
    rows: float = 1.0,
) -> Operator:
    """A matrix of `inputs` x `outputs`, through which `rows` rows pass per unit of load."""
    element = formats.wide_weights if wide else formats.weights
    return Operator(
        name,
        "matmul",
        part,
        over,
        times,
        flop=2.0 * inputs * outputs * rows,
        precision=formats.wide if wide else formats.linear,
        weights=inputs * outputs * element + bias * outputs * formats.wide_weights,
        traffic=(inputs + outputs) * rows * formats.activations,
        inputs=inputs,
        outputs=outputs,
    )


def elementwise(
    name: str,
    part: Part,
    formats: Formats,
    touched: float,
    *,
    over: Over = "tokens",
    times: int = 1,
    weights: float = 0.0,
) -> Operator:
    """Reads and writes `touched` activations in all per unit; `weights` are elements."""
    return Operator(
        name,
        "memory",
        part,
        over,
        times,
        weights=weights * formats.wide_weights,
        traffic=touched * formats.activations,
    )


def attention(
    name: str,
    part: Part,
    formats: Formats,
    *,
    heads: float,
    head_dim: int,
    over: Over,
    times: int = 1,
    cached: float = 0.0,
    streamed: float = 0.0,
) -> Operator:
    """Scores and weighted sum over query-key pairs: 4 x heads x head_dim FLOP a pair.

    `cached` are elements per token read from the KV cache; `streamed` are keys and values that are no
    cache but activations, read once per unit beside queries and outputs.
    """
    return Operator(
        name,
        "attention",
        part,
        over,
        times,
        flop=4.0 * heads * head_dim,
        precision=formats.attention,
        kv=cached * formats.kv,
        traffic=(2.0 * heads * head_dim + streamed) * formats.activations,
        heads=heads,
        kv_heads=(cached or streamed) / (2 * head_dim),
        head_dim=head_dim,
    )


def network(
    name: str,
    part: Part,
    formats: Formats,
    collective: Collective | None,
    elements: float,
    *,
    over: Over = "tokens",
    times: int = 1,
) -> list[Operator]:
    """A collective over `elements` activations per unit, or nothing if the group is a single device."""
    if collective is None:
        return []
    traffic = elements * formats.activations
    return [Operator(name, "network", part, over, times, traffic=traffic, collective=collective)]
