"""What the engine can serve, told from the declaration alone: importing torch takes seconds."""

from __future__ import annotations

import ctypes
import shutil
import sys
from pathlib import Path

from triptych import catalog
from triptych.spec.base import SpecError
from triptych.spec.deployment import Deployment, Pool

FORMATS = ("fp32", "bf16", "fp16")
"""Of numbers that are served."""
_CUDA_SIGNS = ("dev/nvidia*", "dev/nvhost*", "dev/dxg", "dev/kfd", "proc/driver/nvidia")
"""What a driver puts there: NVIDIA's, on a Jetson, under WSL, and AMD's, which torch calls CUDA too."""


def only_pool(deployment: Deployment, file: str | Path | None = None) -> tuple[str, Pool]:
    """Name and declaration of the one pool of a deployment that a single process can serve.

    Args:
        deployment: what is to be served.
        file: where it was declared, for errors.

    Raises:
        SpecError: it takes more than one process, or number formats or a model that are not served.
    """
    if len(deployment.pools) > 1:
        problem = f"{len(deployment.pools)} pools cannot be served yet; declare one pool that runs all phases"
        raise SpecError("pools", problem, file=file)
    ((name, pool),) = deployment.pools.items()
    if pool.instances > 1:
        problem = f"{pool.instances} instances cannot be served yet; use instances: 1"
        raise SpecError(f"pools.{name}.instances", problem, file=file)
    if pool.parallel.devices > 1:
        problem = f"{pool.parallel.devices} devices cannot be served yet; leave parallel out"
        raise SpecError(f"pools.{name}.parallel", problem, file=file)
    if pool.scheduler.lookahead:
        problem = "lookahead cannot be served yet: the engine forms a batch when the last has ended"
        raise SpecError(f"pools.{name}.scheduler.lookahead", f"{problem}; remove it", file=file)
    _check_formats(name, pool, file)
    if not deployment.model.startswith(catalog.RANDOM):
        check_checkpoint(deployment.model, file=file)
    return name, pool


def check_device(name: str, *, field: str, file: str | Path | None = None) -> None:
    """Checks that the device may be here, before torch says for certain, which takes it many seconds.

    Args:
        name: of the device, in the catalogue.
        field: where it was declared, for errors.
        file: likewise.

    Raises:
        SpecError: it takes CUDA, and nothing here looks like it.
    """
    if not on_cpu(name) and not cuda_may_be_here():
        problem = (
            f"{name} is not here: there is no sign of a CUDA device or its driver; serve with device: CPU"
        )
        raise SpecError(field, problem, file=file)


def on_cpu(name: str) -> bool:
    """Whether the device of this name is a CPU."""
    return name.upper().startswith("CPU")


def cuda_may_be_here(root: Path = Path("/")) -> bool:
    """Whether anything hints at a CUDA device; a container may have one and none of the tools.

    Args:
        root: of the file system.
    """
    if sys.platform != "linux":
        return True
    if shutil.which("nvidia-smi") or any(next(root.glob(sign), None) for sign in _CUDA_SIGNS):
        return True
    try:
        ctypes.CDLL("libcuda.so.1")  # without it torch finds no NVIDIA device
    except OSError:
        return False
    return True


def check_checkpoint(name: str, *, field: str = "model", file: str | Path | None = None) -> None:
    """Checks that a name is a folder.

    Args:
        name: of a model, without `random:`.
        field: where it was written, for errors.
        file: likewise.

    Raises:
        SpecError: it is none.
    """
    if Path(name).is_dir():
        return
    try:
        catalog.config(name)
    except SpecError:
        problem = f"there is no folder {name}; name that of a checkpoint, or random:NAME for random weights"
    else:
        problem = f"{name} is no checkpoint folder; name one, or {catalog.RANDOM}{name} for random weights"
    raise SpecError(field, problem, file=file)


def _check_formats(name: str, pool: Pool, file: str | Path | None) -> None:
    formats = pool.precision
    field = f"pools.{name}.precision"
    if not formats.weights == formats.kv == formats.compute:
        problem = "weights, kv and compute differ, which cannot be served yet; give them the same format"
        raise SpecError(field, problem, file=file)
    if formats.weights not in FORMATS:
        problem = f"{formats.weights} cannot be served yet; use one of {', '.join(FORMATS)}"
        raise SpecError(field, problem, file=file)
