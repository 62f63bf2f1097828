"""Efficiencies of a device without a profile, from profiles of devices of the same architecture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import exp, log
from pathlib import Path

import numpy as np

from triptych import catalog
from triptych.catalog.here import CPU
from triptych.cost.loads import Floats, Load
from triptych.cost.operators import Formats, Operator
from triptych.cost.placement import operators
from triptych.cost.roofline import Roofline
from triptych.profiles import Profile
from triptych.spec.base import SpecError
from triptych.spec.deployment import Parallelism, Precisions
from triptych.spec.device import Device, Efficiency

_CLASSES = ("matmul", "attention", "memory")
_AT_MOST = 1.0
"""A share of a data sheet's peak."""
_MANY = 256.0
"""Tokens from which on a matrix product is bound by arithmetic: those below tell the bandwidth."""


def with_efficiency_of_relatives(
    device: Device, profiles: Sequence[Profile], *, field: str = "", file: str | Path | None = None
) -> Device:
    """The device with the efficiencies that its relatives reach; its `efficiency.source` says whose.

    The efficiency of a class is the time at the peaks of the relative's data sheet over the measured time,
    all sizes of an operator together, and of several operators the geometric mean. What no relative has
    (collectives, say) stays as the device's file has it.

    Raises:
        SpecError: nothing of that architecture was measured.
    """
    found: dict[str, list[float]] = {name: [] for name in _CLASSES}
    sources = []
    for profile in profiles:
        if profile.info.device == CPU != device.name:
            continue  # a relative of nothing but itself, which would have to be measured to tell
        if catalog.device(profile.info.device).architecture == device.architecture:
            before = sum(map(len, found.values()))
            for name, share in _shares(profile):
                found[name].append(log(min(share, _AT_MOST)))
            if sum(map(len, found.values())) > before:
                sources.append(profile.info.name)
    if not sources:
        problem = f"nothing was measured on another {device.architecture} device; see `triptych profile list`"
        raise SpecError(field, f"{problem}, or remove it", file=file)
    shares = {name: exp(float(np.mean(logs))) for name, logs in found.items() if logs}
    known = device.efficiency.model_dump() | shares
    known["source"] = f"{', '.join(shares)}: measured, {', '.join(sources)}; {device.efficiency.source}"
    return device.model_copy(update={"efficiency": Efficiency.model_validate(known)})


def _shares(profile: Profile) -> Iterator[tuple[str, float]]:
    """Class and share of the peak, of every operator that a profile has of a model."""
    device = catalog.device(profile.info.device)
    perfect = Efficiency(matmul=1, attention=1, memory=1, network=1, source="")
    roofline = Roofline(device.model_copy(update={"efficiency": perfect, "launch_overhead": 0.0}))
    for name in profile.models:
        of_model = profile.of(model=name)
        for tensor in sorted(set(of_model.columns["tensor"].tolist())) if name else ():
            listed = operators(
                catalog.model(name), device, None, Parallelism(tensor=tensor), Formats.of(Precisions())
            )
            by_name = {operator.name: operator for operator in listed}
            for operator in sorted(set(of_model.columns["operator"].tolist())):
                rows = of_model.of(operator=operator, tensor=tensor)
                if operator == "prefill attention" and len(rows):
                    yield "attention", _attention(rows, by_name[operator], roofline)
                elif operator in by_name and by_name[operator].kind == "matmul" and len(rows):
                    yield from _matmul(rows, by_name[operator], roofline)


def _matmul(rows: Profile, operator: Operator, roofline: Roofline) -> Iterator[tuple[str, float]]:
    """Large products tell the share of the arithmetic, small ones that of the bandwidth."""
    units = rows.columns["units"].astype(np.float64)
    for name, mask in (("matmul", units >= _MANY), ("memory", units < _MANY / 4)):
        if mask.any():
            yield name, _share(_ideal(operator, units[mask], roofline), rows.columns["seconds"][mask])


def _attention(rows: Profile, operator: Operator, roofline: Roofline) -> float:
    line = roofline.attention(operator)
    sizes = (rows.columns[name].astype(np.float64) for name in ("prompts", "units", "history"))
    prompts, queries, history = sizes
    compute = queries * (history + (queries + 1) / 2) * line.per_pair
    moved = (history + queries) * line.per_kv + queries * line.per_unit
    return _share(prompts * np.maximum(compute, moved), rows.columns["seconds"])


def _ideal(operator: Operator, units: Floats, roofline: Roofline) -> Floats:
    none = np.zeros(1)
    return roofline.seconds(operator, Load(units, none, none))


def _share(ideal: Floats, measured: Floats) -> float:
    return float(ideal.sum() / measured.sum())
