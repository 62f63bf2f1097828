"""Operator times of one pool: profiles by name, their tables from the cache or filled."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from triptych.cost.fill import fill
from triptych.cost.fill_attention import Limits
from triptych.cost.measured import MeasuredTimes
from triptych.cost.memory import token_budget
from triptych.cost.operators import Formats
from triptych.cost.placement import operators
from triptych.cost.roofline import Roofline
from triptych.cost.tables import load_tables, save_tables
from triptych.profiles.library import files_of, load_profile
from triptych.spec.base import SpecError
from triptych.spec.deployment import Pool
from triptych.spec.device import Device, Node
from triptych.spec.model import Model
from triptych.spec.paths import cache_folder
from triptych.version import __version__

_VERSION = 9
"""Of how tables are filled: another one makes those on disk stale."""


def measured_times(
    model: Model,
    device: Device,
    node: Node | None,
    pool: Pool,
    *,
    cache: Path | None = None,
    field: str = "",
    file: str | Path | None = None,
) -> MeasuredTimes:
    """Times of a pool that names profiles.

    Args:
        model: what runs.
        device: on what.
        node: how its devices are connected.
        pool: names the profiles.
        cache: folder of filled tables; None: `$XDG_CACHE_HOME/triptych/tables`.
        field: name of the pool, for errors.
        file: of the deployment, for errors.

    Raises:
        SpecError: a profile cannot be found or read, or has nothing of this model on this device.
    """
    where = f"{field}.profile" if field else "profile"
    roofline = Roofline(device, field=field, file=file)
    limits = Limits(token_budget(pool.scheduler), model.text.max_context, pool.scheduler.max_batch)
    key = _digest(
        [_stamp(name, files_of(name, file)) for name in pool.profile],
        model.model_dump_json(),
        device.model_dump_json(),
        "" if node is None else node.model_dump_json(),
        pool.parallel.model_dump_json(),
        pool.precision.model_dump_json(),
        f"{limits} {pool.estimator} {_VERSION} {__version__}",
    )
    stored = (cache or cache_folder() / "tables") / f"{key}.npz"
    tables = load_tables(stored)
    if tables is None:
        profiles = [load_profile(name, where, file, model=model, device=device.name) for name in pool.profile]
        for profile in profiles:
            if profile.info.device != device.name:
                problem = f"{profile.info.name} was measured on {profile.info.device}, not on {device.name}"
                raise SpecError(where, f"{problem}; use another, or remove it", file=file)
        ops = operators(model, device, node, pool.parallel, Formats.of(pool.precision))
        tables = fill(
            profiles, model, ops, roofline, limits, tensor=pool.parallel.tensor, estimator=pool.estimator
        )
        if not tables.curves and tables.decode is None:
            held = sorted({name or "kernels of any model" for each in profiles for name in each.models})
            problem = (
                f"has nothing of {model.name} with tensor: {pool.parallel.tensor}, but {', '.join(held)}"
            )
            raise SpecError(where, f"{problem}; use another, or remove it", file=file)
        save_tables(tables, stored)
    return MeasuredTimes(tables, roofline)


def _stamp(name: str, paths: Sequence[Path]) -> str:
    """What a profile is now: the bytes of its files, and of all files below its folders."""
    digest = hashlib.sha256(name.encode())
    for path in paths:
        files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        for each in files:
            digest.update(str(each.relative_to(path)).encode())
            digest.update(each.read_bytes())
    return digest.hexdigest()


def _digest(parts: Sequence[str], *more: str) -> str:
    return hashlib.sha256("\0".join([*parts, *more]).encode()).hexdigest()[:32]
