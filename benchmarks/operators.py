"""How well estimators know operators at sizes that they were not shown: 10-fold, on everybody's profiles.

Every profile of `--data` is learned from as a deployment would: for each of its models and parallelisms, or,
where it has kernels of any model, for models that were served on that device. Sizes are held out, not runs:
an estimator never sees the size that it is asked for.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from triptych import catalog
from triptych.cost.estimators import ESTIMATORS
from triptych.cost.fill import fill
from triptych.cost.fill_attention import Limits
from triptych.cost.operators import Formats
from triptych.cost.placement import operators
from triptych.cost.roofline import Roofline
from triptych.profiles import Profile
from triptych.profiles.library import load_profile
from triptych.spec.deployment import Parallelism, Precisions

_SERVED = (("Qwen3-32B", "bf16"), ("Llama-3.1-70B", "fp8"))
"""Models and formats for which kernels of any model are learned."""
_LIMITS = Limits(queries=2048, context=4096, decodes=128)


@dataclass(frozen=True)
class Error:
    """Held-out error of one estimator on one operator."""

    profile: str
    model: str
    tensor: int
    kind: str
    operator: str
    estimator: str
    rows: int
    median: float
    p90: float


def main() -> None:
    """Measures, prints a row for each profile and class of operators, and writes what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--quick", action="store_true", help="leave the trees out")
    parser.add_argument("--json", metavar="FILE", help="write every error; - for standard output")
    options = parser.parse_args()
    names = [name for name in ESTIMATORS if not options.quick or name in ("interpolation", "roofline")]
    errors = [error for profile in profiles(options.data) for error in judge(profile, names)]
    if options.json == "-":
        json.dump([asdict(error) for error in errors], sys.stdout, indent=1)
        return
    print_table(errors, names)
    if options.json:
        rows = json.dumps([asdict(error) for error in errors], indent=1)
        Path(options.json).write_text(rows + "\n", encoding="utf-8")


def profiles(data: Path) -> Iterator[Profile]:
    """What is there of the formats that we read."""
    for meta in sorted(data.glob("vllm_rtx/profiles/*/*/*/*/meta.yaml")):
        yield load_profile(meta.parent)
    if (data / "vidur_profiles" / "a100").exists():
        yield load_profile(data / "vidur_profiles" / "a100", device="A100-80GB")
    for folder in sorted(data.glob("aic_h100/operators/*/vllm_*")):
        yield load_profile(folder)


def judge(profile: Profile, estimators: list[str]) -> Iterator[Error]:
    """The errors of every estimator on every operator of a profile."""
    device = catalog.device(profile.info.device)
    node = catalog.node("DGX-H100") if device.name == "H100" else None
    tasks: list[tuple[str, str, int]] = []
    for name in profile.models:
        tensors = sorted(set(profile.of(model=name).columns["tensor"].tolist()))
        tasks += [(name, "bf16", tensor) for tensor in tensors] if name else []
    if not tasks:
        tasks = [(name, precision, tensor) for name, precision in _SERVED for tensor in (2, 4, 8)]
    for name, precision, tensor in tasks:
        model = catalog.model(name)
        formats = Formats.of(Precisions.model_validate({"weights": precision, "compute": precision}))
        listed = operators(model, device, node, Parallelism(tensor=tensor), formats)
        kinds = {operator.name: operator.kind for operator in listed}
        for estimator in estimators:
            tables = fill(
                [profile], model, listed, Roofline(device), _LIMITS, tensor=tensor, estimator=estimator
            )
            for fit in tables.fits:
                if np.isfinite(fit.median_error):
                    kind = _kind(fit.operator, kinds)
                    place = (profile.info.name, name, tensor, kind, fit.operator, estimator)
                    yield Error(*place, fit.rows, fit.median_error, fit.p90_error)


def print_table(errors: list[Error], estimators: list[str]) -> None:
    """Median error of each class, weighted by measurements, by profile and estimator."""
    heading = f"{'profile':58} {'class':10} {'measured':>9}  "
    print(heading + "  ".join(f"{name:>13}" for name in estimators))
    for profile in dict.fromkeys(error.profile for error in errors):
        for kind in ("matmul", "experts", "attention", "memory", "network"):
            own = [error for error in errors if (error.profile, error.kind) == (profile, kind)]
            if not own:
                continue
            cells = []
            for name in estimators:
                of = [error for error in own if error.estimator == name]
                cells.append(np.average([error.median for error in of], weights=[error.rows for error in of]))
            count = sum(error.rows for error in own if error.estimator == estimators[0])
            print(f"{profile:58} {kind:10} {count:9,}  " + "  ".join(f"{cell:13.1%}" for cell in cells))


def _kind(operator: str, kinds: dict[str, Any]) -> str:
    if operator == "experts" or ("attention" in operator and operator not in kinds):
        return "experts" if operator == "experts" else "attention"
    return str(kinds.get(operator.split("+")[0], "memory"))


if __name__ == "__main__":
    main()
