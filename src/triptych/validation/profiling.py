"""Before a validation: pools that name no profile get one of the device at hand, measured once and kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from triptych import catalog
from triptych.catalog.here import CPU
from triptych.engine.servable import on_cpu
from triptych.profiler import run_profile
from triptych.profiler.progress import Advance
from triptych.profiles import Profile
from triptych.profiles.here import fitting, to_measure, was_held_up
from triptych.profiles.library import FOLDER, user_folder
from triptych.spec.deployment import Deployment, Pool
from triptych.spec.model import Model
from triptych.validation.server import Interrupted
from triptych.validation.watch import GoOn
from triptych.workload import Requests

Measure = Callable[..., Path]
"""Measures a model and returns the profile's file: called as `measure_now` is."""

_MINUTES = 20 / 60
"""After which nothing new is measured: with loading, before, it is half a minute."""
_FEWEST_TOKENS, _FEWEST_PATCHES = 256, 256
"""That are measured at the least, so that the next workload is likely to be covered too."""
_BATCHED = 2
"""Times the patches of the largest request that are measured: images of several are encoded together."""


@dataclass(frozen=True)
class Sizes:
    """How far the sizes of a profile have to go for a workload."""

    context: int
    """Tokens of a request, the answer included."""
    patches: int
    """Image patches of a batch; 0: no images come."""

    def with_those_of(self, known: Profile, model: Model) -> Sizes | None:
        """How far a profile has to go that takes the place of one that does not go so far; None: it does.

        Of profiles that others made, only they can tell.
        """
        if known.info.device != CPU:
            return None
        own = known.of(model=model.name).columns
        decoded = own["decode_kv"][own["operator"] == "decode attention"].tolist()
        encoded = own["units"][own["operator"] == "patch embedding"].tolist()
        context, patches = max(decoded, default=0), max(encoded, default=0)
        # The largest image is the widest of a few that keeps the limit.
        if context >= self.context and 2 * patches >= self.patches:
            return None
        return Sizes(max(context, self.context), max(patches, self.patches))


def sizes_of(requests: Requests, model: Model) -> Sizes:
    """What a workload needs, rounded up to powers of two.

    Args:
        requests: of the workload.
        model: that they are sent to.
    """
    tokens = requests.text_tokens + requests.output_tokens
    patches = np.zeros(len(requests), np.int64)
    if model.vision is not None and len(requests.image_width):
        pairs = list(zip(requests.image_width.tolist(), requests.image_height.tolist(), strict=True))
        owner = np.repeat(np.arange(len(requests)), requests.image_counts)
        np.add.at(patches, owner, [model.vision.patches(*pair) for pair in pairs])
        tokens = tokens.copy()
        np.add.at(tokens, owner, [model.vision.tokens(*pair) for pair in pairs])
    context = max(_power_of_two(int(tokens.max())), _FEWEST_TOKENS)
    images = max(_power_of_two(_BATCHED * int(patches.max())), _FEWEST_PATCHES) if patches.any() else 0
    return Sizes(min(context, model.text.max_context), images)


class ProfileOnce:
    """Names a profile in every pool that names none.

    Args:
        say: told what is done, in a line.
        measure: called with model, device, precision, folder and limits where the library has no profile;
            None: nothing is measured, and the roofline has to do.
    """

    def __init__(self, say: Callable[[str], None], measure: Measure | None = None) -> None:
        self._say, self._measure = say, measure

    def __call__(self, deployment: Deployment, requests: Requests, go_on: GoOn) -> Deployment:
        """The deployment with profiles, from the library or measured now.

        Args:
            deployment: as it was declared.
            requests: that it will get: no larger batches are measured than they make.
            go_on: called while something is measured; False ends that.

        Raises:
            SpecError: a model cannot be profiled, or a profile of the library cannot be read.
            Interrupted: `go_on` said so; what was measured so far is kept for the next time.
        """
        sizes = sizes_of(requests, catalog.model(deployment.model))
        pools = {
            name: pool if pool.profile else self._profiled(deployment.model, pool, sizes, go_on)
            for name, pool in deployment.pools.items()
        }
        return deployment.model_copy(update={"pools": pools})

    def _profiled(self, model: str, pool: Pool, sizes: Sizes, go_on: GoOn) -> Pool:
        shape, device = catalog.model(model), catalog.device(pool.device)
        for known in fitting(shape, device.name, pool):
            if self._measure is not None and was_held_up(known):
                self._say(f"{known.info.name} was measured beside other programs: it is measured again")
                continue
            wanted = sizes.with_those_of(known, shape)
            if wanted is None:
                self._say(f"predictions rest on the profile {known.info.name}")
                return pool.model_copy(update={"profile": (known.info.name,)})
            sizes = wanted
        kind = "cpu" if on_cpu(device.name) else "cuda"
        own, precision = model.removeprefix(catalog.RANDOM), pool.precision.compute
        if self._measure is None or (kind == "cpu" and device.name != CPU):
            command = to_measure(model, pool, kind)
            self._say(f"no profile is known: predictions rest on the roofline; to measure: {command}")
            return pool
        self._say(
            f"measuring {shape.name} on this machine, once, in about half a minute; "
            f"it is kept in {user_folder()} (${FOLDER})"
        )
        path = self._measure(
            own,
            go_on,
            device=kind,
            tp=(pool.parallel.tensor,),
            precision=precision,
            out=user_folder(),
            quick=True,
            model_alone=True,
            minutes=_MINUTES,
            max_tokens=min(pool.scheduler.max_tokens or sizes.context, sizes.context),
            max_batch=pool.scheduler.max_batch,
            max_context=sizes.context,
            max_patches=min(pool.scheduler.max_patches or sizes.patches, sizes.patches) or None,
        )
        return pool.model_copy(update={"profile": (str(path),)})


def _power_of_two(size: int) -> int:
    return 1 << max(size - 1, 0).bit_length()


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
