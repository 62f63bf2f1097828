"""Whole iterations as splitwise-sim keeps them: a row is a run of equal requests, times in ms.

`prompt_time` is the iteration that takes in all prompts of the batch, `token_time` the mean of those that
follow. How many follow is told by `e2e_time` (fewer than `token_size` where generation ended early), so each
reads prompt + half of them tokens of KV on average.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych import catalog
from triptych.profiles.check import check_profile, check_speed, refuse
from triptych.profiles.readers.duplicates import averaged
from triptych.profiles.readers.names import device_of, slug
from triptych.profiles.readers.source import Source, read_csv
from triptych.profiles.table import Profile, ProfileInfo, joined, profile_of
from triptych.spec.base import SpecError
from triptych.spec.device import Device

_COLUMNS = (
    *("model", "hardware", "prompt_size", "batch_size", "prompt_time", "token_time", "e2e_time"),
    "tensor_parallel",
)


def is_splitwise(source: Source) -> bool:
    """Whether a table has the columns of such a file."""
    return "prompt_time" in source and "token_time" in source


def read_splitwise(path: str | Path, *, device: str | None = None) -> Profile:
    """Whole iterations of one device.

    Args:
        path: the CSV file.
        device: a name of the catalogue; None: the one that the file is of, if it is of one alone.

    Returns:
        `prompt iteration` by prompt tokens (`units`) and prompts (`decodes`), `token iteration` by sequences
        and KV tokens of each, of those models that the catalogue has. Runs of the same are averaged.

    Raises:
        SpecError: the column and row that is missing or cannot be right, or no row is of that device.
    """
    source = read_csv(path)
    source.need(_COLUMNS)
    hardware, names = source.texts("hardware").tolist(), source.texts("model").tolist()
    devices = {name: _known(name, source) for name in sorted(set(hardware))}
    facts = catalog.device(device or _single(devices, source))
    models = {name: _model(name) for name in sorted(set(names))}
    of_device = np.array([devices[name] == facts.name for name in hardware])
    if not of_device.any():
        found = ", ".join(sorted(set(devices.values()) - {""}))
        raise SpecError("hardware", f"no row is of {facts.name}; the file has {found}", file=source.file)
    chosen = of_device & np.array([models[name] is not None for name in names])
    if not chosen.any():
        raise SpecError("model", f"none of {', '.join(models)} is in the catalogue", file=source.file)
    possible = _possible(source, chosen, models, facts)
    rows = source.where(chosen & possible)
    left_out = [name for name, model in models.items() if model is None]
    notes = [f"Left out, as no model of the catalogue: {', '.join(left_out)}."] if left_out else []
    if not possible.all():
        notes.append(f"Left out, as faster than the data sheet: {int((~possible).sum())} rows.")
    info = ProfileInfo(
        name=slug(facts.name, "splitwise"),
        device=facts.name,
        source="Mutinifni/splitwise-sim, MIT",
        notes=" ".join(notes),
    )
    profile = averaged(_iterations(rows, models, info))
    check_profile(profile, source.file)
    return profile


def _possible(
    source: Source, chosen: NDArray[np.bool_], models: Mapping[str, str | None], device: Device
) -> NDArray[np.bool_]:
    """Rows whose prompts take at least as long as the FLOP of their matrix products, shape (rows,).

    Some of the published rows do not: 64 prompts on two A100 are said to take 802 ms, where 32 take 6,639. If
    most do not, the unit is wrong, which is refused.
    """
    for name in ("prompt_size", "batch_size", "tensor_parallel"):
        values = source.counts(name)
        refuse(values == 0, name, values, "is nothing to measure", source.file)
    for name in ("token_time", "e2e_time"):
        source.seconds(name, "ms")
    active = {
        name: catalog.model(model).text.active_parameters if model else 0 for name, model in models.items()
    }
    parameters = np.array([active[name] for name in source.texts("model").tolist()], dtype=np.float64)
    tokens = source.counts("prompt_size") * source.counts("batch_size")
    flop = 2.0 * parameters * tokens / source.counts("tensor_parallel")
    ideal = np.where(chosen, flop / device.flops["bf16"], 0.0)
    possible = source.seconds("prompt_time", "ms") >= ideal
    judged = possible if 2 * possible[chosen].sum() > chosen.sum() else np.ones_like(possible)
    check_speed("prompt_time", source.numbers("prompt_time"), "ms", np.where(judged, ideal, 0.0), source.file)
    return possible


def _iterations(source: Source, models: Mapping[str, str | None], info: ProfileInfo) -> Profile:
    prompt, batch, tensor = (source.counts(name) for name in ("prompt_size", "batch_size", "tensor_parallel"))
    first, token, whole = (source.seconds(name, "ms") for name in ("prompt_time", "token_time", "e2e_time"))
    followed = np.maximum(whole - first, 0.0) / np.where(token > 0, token, np.inf)
    common = {
        "model": np.array([models[name] for name in source.texts("model").tolist()], dtype=object),
        "precision": "fp16",
        "kv_precision": "fp16",
        "tensor": tensor,
        "decodes": batch,
        "repeats": 1,
    }
    kinds: dict[str, dict[str, Any]] = {
        "prompt iteration": {"units": prompt * batch, "seconds": first},
        "token iteration": {"decode_kv": np.rint(prompt + followed / 2).astype(np.int64), "seconds": token},
    }
    parts = [
        profile_of(info, {**common, "operator": np.full(len(source), kind, dtype=object), **columns})
        for kind, columns in kinds.items()
    ]
    return joined(info, parts)


def _known(hardware: str, source: Source) -> str:
    """The device in the catalogue; empty for one that it does not have."""
    try:
        return device_of(hardware.replace("-", " "), field="hardware", file=source.file)
    except SpecError:
        return ""


def _single(known: dict[str, str], source: Source) -> str:
    devices = sorted(set(known.values()) - {""})
    if len(devices) != 1:
        problem = f"the file is of {', '.join(devices) or 'no device of the catalogue'}; give the device"
        raise SpecError("hardware", problem, file=source.file)
    return devices[0]


def _model(name: str) -> str | None:
    try:
        return catalog.model(name.replace("llama2", "Llama-2")).name
    except SpecError:
        return None
