"""What the rows of a profile say of a model's shape: of which sizes, and how long they take at the least."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from triptych import catalog
from triptych.profiles.check import check_speed
from triptych.profiles.table import Profile
from triptych.spec.base import SpecError
from triptych.spec.model import Model

Shape = dict[str, int]
_SOME_CPU = "CPU-XEON-4"


def shape_of(model: Model) -> Shape:
    """The sizes that the time of a model's operators depends on; those that it has not are left out."""
    text, experts, vision = model.text, model.text.experts, model.vision
    sizes: dict[str, int | None] = {
        "hidden": text.hidden,
        "heads": text.heads,
        "kv_heads": text.kv_heads,
        "head_dim": text.head_dim,
        "intermediate": text.intermediate,
        "gated_mlp": int(text.gated_mlp),
        "vocab": text.vocab,
        "sliding_window": text.sliding_window,
    }
    if experts is not None:
        sizes |= {
            "experts.count": experts.count,
            "experts.top_k": experts.top_k,
            "experts.intermediate": experts.intermediate,
            "experts.shared_intermediate": experts.shared_intermediate,
        }
    if vision is not None:
        sizes |= {
            "vision.hidden": vision.hidden,
            "vision.heads": vision.heads,
            "vision.intermediate": vision.intermediate,
            "vision.patch": vision.patch,
            "vision.merge": vision.merge,
            "vision.window": vision.window,
            "vision.out_hidden": vision.out_hidden,
        }
    return {name: size for name, size in sizes.items() if size}


def is_of_shape(profile: Profile, model: Model) -> bool:
    """Whether the rows of the model's name are of its shape, as far as the profile says."""
    return _difference(profile, model) is None


def check_shape_of(profile: Profile, model: Model, file: str | Path) -> None:
    """Sees to it that the rows of the model's name are of its shape.

    Raises:
        SpecError: the first size that is another.
    """
    wrong = _difference(profile, model)
    if wrong is not None:
        name, given, wanted = wrong
        problem = f"{given} is not that of {model.name}, {wanted}; measure the model again"
        raise SpecError(f"shapes.{model.name}.{name}", problem, file=file)


def check_units(profile: Profile, file: str | Path) -> None:
    """Sees to it that large matrix products of models whose shape is known take seconds.

    Raises:
        SpecError: the first row whose time looks like one in another unit.
    """
    if profile.info.device not in catalog.device_names():
        return
    # A profile of a CPU is of the one that was at hand then; no other profile may cost a measurement now.
    device = catalog.device(profile.info.device if not _of_cpu(profile) else _SOME_CPU)
    columns = profile.columns
    known = {str(name): flops for name, flops in device.flops.items()}
    flops = np.array([known.get(name, max(known.values())) for name in columns["precision"].tolist()])
    elements = np.zeros(len(profile))
    for model, shape in profile.info.shapes.items():
        own = columns["model"] == model
        for operator, size in _matrices(shape).items():
            named = [name.split("+")[0] == operator for name in columns["operator"].tolist()]
            elements[own & np.array(named)] = size
    ideal = 2.0 * elements / np.maximum(columns["tensor"], 1) * columns["units"] / flops
    # Others than these two cores may be many times as fast.
    check_speed("seconds", columns["seconds"], "s", ideal, file, fast=not _of_cpu(profile))


def _of_cpu(profile: Profile) -> bool:
    return profile.info.device.startswith("CPU")


def _matrices(shape: Shape) -> dict[str, int]:
    """Elements of the weights of one layer, by operator."""
    queries, keys = (shape.get(name, 0) * shape.get("head_dim", 0) for name in ("heads", "kv_heads"))
    hidden, inner = shape.get("hidden", 0), shape.get("intermediate", 0)
    return {
        "qkv": hidden * (queries + 2 * keys),
        "attention output": queries * hidden,
        "mlp up": hidden * inner * (1 + shape.get("gated_mlp", 0)),
        "mlp down": inner * hidden,
    }


def _difference(profile: Profile, model: Model) -> tuple[str, int, int] | None:
    """Name of the first size that differs, what the profile has and what the model has; 0: none."""
    given = profile.info.shapes.get(model.name)
    if given is None:
        return None
    wanted = shape_of(model)
    for name in dict.fromkeys([*wanted, *given]):
        if given.get(name, 0) != wanted.get(name, 0):
            return name, given.get(name, 0), wanted.get(name, 0)
    return None
