"""Before a validation: pools that name no profile get one of the device at hand, measured once and kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from triptych import catalog
from triptych.profiler import run_profile
from triptych.profiler.machine import is_this
from triptych.profiler.progress import Advance
from triptych.profiles import Profile
from triptych.profiles.library import FOLDER, profiles, user_folder
from triptych.profiles.shapes import is_of_shape
from triptych.spec.deployment import Deployment, Pool
from triptych.spec.model import Model
from triptych.validation.server import Interrupted
from triptych.validation.watch import GoOn

Measure = Callable[..., Path]
"""Measures a model and returns the profile's file: called as `measure_now` is."""


class ProfileOnce:
    """Names a profile in every pool that names none.

    Args:
        say: told what is done, in a line.
        measure: called with model, device, precision, folder and the limits of the pool's scheduler where the
            library has no profile; None: nothing is measured, and the roofline has to do.
    """

    def __init__(self, say: Callable[[str], None], measure: Measure | None = None) -> None:
        self._say, self._measure = say, measure

    def __call__(self, deployment: Deployment, go_on: GoOn = lambda *so_far: True) -> Deployment:
        """The deployment with profiles, from the library or measured now.

        Args:
            deployment: as it was declared.
            go_on: called while something is measured; False ends that.

        Raises:
            SpecError: a model cannot be profiled, or a profile of the library cannot be read.
            Interrupted: `go_on` said so; what was measured so far is kept for the next time.
        """
        pools = {
            name: pool if pool.profile else self._profiled(deployment.model, pool, go_on)
            for name, pool in deployment.pools.items()
        }
        return deployment.model_copy(update={"pools": pools})

    def _profiled(self, model: str, pool: Pool, go_on: GoOn) -> Pool:
        shape, device = catalog.model(model), catalog.device(pool.device)
        for known in profiles():
            if _is_of(known, shape, device.name, pool):
                self._say(f"predictions rest on the profile {known.info.name}")
                return pool.model_copy(update={"profile": (known.info.name,)})
        kind = "cpu" if device.name == "CPU" else "cuda"
        own, precision = model.removeprefix(catalog.RANDOM), pool.precision.compute
        if self._measure is None:
            command = f"triptych profile --model {own} --device {kind} --precision {precision}"
            self._say(f"no profile is known: predictions rest on the roofline; to measure: {command}")
            return pool
        self._say(f"measuring {shape.name} on this machine, once; it is kept in {user_folder()} (${FOLDER})")
        path = self._measure(
            own,
            go_on,
            device=kind,
            tp=(pool.parallel.tensor,),
            precision=precision,
            out=user_folder(),
            quick=True,
            max_tokens=pool.scheduler.max_tokens,
            max_batch=pool.scheduler.max_batch,
            max_patches=pool.scheduler.max_patches,
        )
        return pool.model_copy(update={"profile": (str(path),)})


def _is_of(known: Profile, model: Model, device: str, pool: Pool) -> bool:
    """Whether a profile is of this model and format on the device at hand."""
    # Devices of the catalogue are each of one kind, but for the CPU.
    if known.info.device != device or (device == "CPU" and not is_this(known.info.clocks)):
        return False
    own = known.of(model=model.name, tensor=pool.parallel.tensor, precision=pool.precision.compute)
    return len(own) > 0 and is_of_shape(known, model)


def measure_now(model: str, go_on: GoOn, **options: Any) -> Path:
    """Measures on the device at hand.

    Args:
        model: as of `run_profile`.
        go_on: called a few times a second with batches done and to do, and seconds; False ends it.
        options: as of `run_profile`.

    Raises:
        SpecError: as of `run_profile`.
        Interrupted: `go_on` said so.
    """
    began, advance = time.monotonic(), Advance(1)

    def progress(line: dict[str, Any]) -> None:
        advance.take(line)
        if not go_on(advance.done, advance.total, time.monotonic() - began):
            raise Interrupted

    return run_profile(model, progress=progress, **options).path
