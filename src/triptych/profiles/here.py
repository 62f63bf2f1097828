"""Which profiles of the library are of the CPU at hand: those that were measured on it."""

from __future__ import annotations

import shlex

from triptych import catalog
from triptych.catalog.here import CPU
from triptych.profiles.library import profiles, user_folder
from triptych.profiles.machine import is_this
from triptych.profiles.shapes import is_of_shape
from triptych.profiles.table import Profile
from triptych.spec.deployment import Deployment, Pool
from triptych.spec.model import Model

_HELD_UP = 0.1
"""Share of its time that a measurement may have waited for processors and be kept for more than one use."""


def fitting(model: Model, device: str, pool: Pool) -> list[Profile]:
    """Profiles of the library that are of a model as a pool splits it, on this device: the best first.

    Args:
        model: of the deployment.
        device: name of the pool's; only a profile that was measured on this machine is of `CPU`.
        pool: whose parallelism and precision count.

    Raises:
        SpecError: a profile of the library cannot be read.
    """
    return sorted((known for known in profiles() if _is_of(known, model, device, pool)), key=was_held_up)


def was_held_up(known: Profile) -> bool:
    """Whether a profile was measured beside other programs, so that it is better measured again."""
    return float(known.info.clocks.get("waited", "0")) > _HELD_UP


def to_measure(model: str, pool: Pool, device: str) -> str:
    """The command that measures what a pool needs, and keeps it in the library.

    Args:
        model: as the deployment names it.
        pool: of the deployment.
        device: `cpu` or `cuda`.
    """
    words = ["--model", model.removeprefix(catalog.RANDOM), "--device", device]
    words += ["--precision", pool.precision.compute, "--quick", "--out", str(user_folder())]
    if pool.parallel.tensor > 1:
        words += ["--tp", str(pool.parallel.tensor)]
    return f"triptych profile {shlex.join(words)}"


def with_profiles(deployment: Deployment) -> tuple[Deployment, tuple[str, ...], tuple[str, ...]]:
    """Has pools of the CPU at hand that name no profile rest on what was measured on it.

    One that is calibrated stays as it is: a calibration is relative to the profiles that are named.

    Args:
        deployment: with files under paths that are true from anywhere (`plan.rooted`), and known names.

    Returns:
        The deployment, the names of the profiles that it got, and the commands that measure what was missing.

    Raises:
        SpecError: a profile of the library cannot be read.
    """
    found: dict[str, None] = {}
    missing: dict[str, None] = {}
    pools = {}
    for name, pool in deployment.pools.items():
        pools[name] = pool
        if pool.profile or deployment.calibration or pool.device.strip().lower() != CPU.lower():
            continue
        known = fitting(catalog.model(deployment.model), CPU, pool)
        if known:
            found[known[0].info.name] = None
            pools[name] = pool.model_copy(update={"profile": (known[0].info.name,)})
        else:
            missing[to_measure(deployment.model, pool, "cpu")] = None
    return deployment.model_copy(update={"pools": pools}), tuple(found), tuple(missing)


def _is_of(known: Profile, model: Model, device: str, pool: Pool) -> bool:
    # Devices of the catalogue are each of one kind, but for the CPU at hand.
    if known.info.device != device or (device == CPU and not is_this(known.info.clocks, known.info.versions)):
        return False
    own = known.of(model=model.name, tensor=pool.parallel.tensor, precision=pool.precision.compute)
    return len(own) > 0 and is_of_shape(known, model)
