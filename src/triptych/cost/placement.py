"""Which operators an instance runs, and in which of its pipeline stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from triptych.cost.collectives import Wires, exchanges
from triptych.cost.operators import Formats, Operator, Part
from triptych.cost.transformer import text_operators
from triptych.cost.vision import vision_operators
from triptych.spec.deployment import Parallelism
from triptych.spec.device import Device, Node
from triptych.spec.model import Model


def operators(
    model: Model, device: Device, node: Node | None, parallel: Parallelism, formats: Formats
) -> list[Operator]:
    """All operators that one device of an instance runs, vision tower first."""
    wires = exchanges(Wires(device, node), parallel)
    text = text_operators(model.text, parallel, formats, wires)
    if model.vision is None:
        return text
    return [*vision_operators(model.vision, parallel, formats, wires), *text]


def stage_parts(model: Model, pipeline: int) -> list[dict[Part, int]]:
    """How often each part runs in each pipeline stage.

    Layers are dealt as evenly as possible; those without experts come first.
    """
    text = model.text
    dense = text.layers - (text.experts.layers if text.experts else 0)
    ends = [text.layers * stage // pipeline for stage in range(pipeline + 1)]
    parts: list[dict[Part, int]] = []
    for first, end in pairwise(ends):
        plain = min(end, dense) - min(first, dense)
        parts.append(
            {
                "vision": int(first == 0),
                "embedding": int(first == 0),
                "layer": end - first,
                "dense_layer": plain,
                "expert_layer": end - first - plain,
                "head": int(end == text.layers),
            }
        )
    return parts


def runs(operator: Operator, stages: Sequence[Mapping[Part, int]]) -> int:
    """How often an operator runs in an iteration, over these stages."""
    return operator.times * sum(parts[operator.part] for parts in stages)
