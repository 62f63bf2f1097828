"""Before a validation: pools that name no profile get one of the device at hand, measured once and kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from triptych import catalog
from triptych.profiles import Profile
from triptych.profiles.library import FOLDER, profiles, user_folder
from triptych.spec.deployment import Deployment, Pool

Measure = Callable[..., Path]
"""Measures a model and returns the profile's file: `profiler.api.run_profile` behind arguments of its own."""


class ProfileOnce:
    """Names a profile in every pool that names none.

    Args:
        say: told what is done, in a line.
        measure: called with model, device, precision, folder and the limits of the pool's scheduler where the
            library has no profile; None: nothing is measured, and the roofline has to do.
    """

    def __init__(self, say: Callable[[str], None], measure: Measure | None = None) -> None:
        self._say, self._measure = say, measure

    def __call__(self, deployment: Deployment) -> Deployment:
        """The deployment with profiles, from the library or measured now.

        Raises:
            SpecError: a model cannot be profiled, or a profile of the library cannot be read.
        """
        pools = {
            name: pool if pool.profile else self._profiled(deployment.model, pool)
            for name, pool in deployment.pools.items()
        }
        return deployment.model_copy(update={"pools": pools})

    def _profiled(self, model: str, pool: Pool) -> Pool:
        shape, device = catalog.model(model), catalog.device(pool.device)
        for known in profiles():
            if _is_of(known, shape.name, device.name, pool):
                self._say(f"predictions rest on the profile {known.info.name}")
                return pool.model_copy(update={"profile": (known.info.name,)})
        kind = "cpu" if device.name == "CPU" else "cuda"
        if self._measure is None:
            command = f"triptych profile --model {model.removeprefix(catalog.RANDOM)} --device {kind}"
            self._say(f"no profile is known: predictions rest on the roofline; to measure: {command}")
            return pool
        self._say(f"measuring {shape.name} on this machine, once; it is kept in {user_folder()} (${FOLDER})")
        path = self._measure(
            model.removeprefix(catalog.RANDOM),
            device=kind,
            precision=pool.precision.compute,
            out=user_folder(),
            quick=True,
            max_tokens=pool.scheduler.max_tokens,
            max_batch=pool.scheduler.max_batch,
            max_patches=pool.scheduler.max_patches,
        )
        return pool.model_copy(update={"profile": (str(path),)})


def _is_of(known: Profile, model: str, device: str, pool: Pool) -> bool:
    """Whether a profile is of this model and format on the device at hand."""
    if known.info.device != device or not _same_processor(known):
        return False
    return len(known.of(model=model, tensor=pool.parallel.tensor, precision=pool.precision.compute)) > 0


def _same_processor(known: Profile) -> bool:
    """A profile of a CPU is of one kind of CPU; devices of the catalogue are each of one kind."""
    return known.info.device != "CPU" or known.info.clocks.get("processor") == processor()


def processor() -> str:
    """Name of the CPU at hand, and of how many threads."""
    from triptych.profiler.about import clocks

    return clocks("cpu")["processor"]


def measure_now(model: str, **options: Any) -> Path:
    """Measures on the device at hand.

    Raises:
        SpecError: as of `run_profile`.
    """
    from triptych.profiler.api import run_profile

    return run_profile(model, **options).path
