"""How well estimators know operators at sizes that they were not shown: 10-fold, on everybody's profiles.

Every profile of `--data` is learned from as a deployment would: for each of its models and parallelisms, or,
where it has kernels of any model, for models that were served on that device. Sizes are held out, not runs:
an estimator never sees the size that it is asked for.

Where prefill attention was measured over several prompts in one launch, each number of prompts is held out
in turn, and foretold by what other numbers teach, by launches of one prompt alone, and, as a baseline, by
the one prompt that has as many query-key pairs (Agrawal et al., "Vidur", MLSys 2024).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from triptych import catalog
from triptych.cost.estimators import ESTIMATORS
from triptych.cost.fill import fill
from triptych.cost.fill_attention import Limits
from triptych.cost.loads import Floats
from triptych.cost.operators import Formats
from triptych.cost.placement import operators
from triptych.cost.roofline import Roofline
from triptych.cost.together import fit_together
from triptych.profiles import Profile
from triptych.profiles.library import load_profile
from triptych.spec.deployment import Parallelism, Precisions

_SERVED = (("Qwen3-32B", "bf16"), ("Llama-3.1-70B", "fp8"))
"""Models and formats for which kernels of any model are learned."""
_LIMITS = Limits(queries=2048, context=4096, decodes=128)
_GOOD = 0.05
"""Error of interpolation above which a deployment tries the fitted roofline too."""
_SHORT = 128
"""Tokens up to which a prompt is short: one tile of queries."""


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


@dataclass(frozen=True)
class Launches:
    """Signed errors on held-out launches of several prompts: of one shape of attention and one number."""

    profile: str
    windowed: bool
    """Whether a query sees a window of the keys."""
    short: bool
    """Whether prompts have up to 128 tokens."""
    prompts: int
    one_prompt: list[float]
    """By the one prompt of as many pairs."""
    taught_by_one: list[float]
    """By launches of one prompt."""
    taught_by_others: list[float]
    """By launches of other numbers of prompts."""


def main() -> None:
    """Measures, prints a row for each profile and class of operators, and writes what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--quick", action="store_true", help="leave the trees out")
    parser.add_argument("--json", metavar="FILE", help="write every error; - for standard output")
    options = parser.parse_args()
    names = [name for name in ESTIMATORS if not options.quick or name in ("interpolation", "roofline")]
    known = list(profiles(options.data))
    errors = [error for profile in known for error in judge(profile, names)]
    launches = [each for profile in known for each in judge_launches(profile)]
    rows = json.dumps([asdict(each) for each in (*errors, *launches)], indent=1)
    if options.json == "-":
        print(rows)
        return
    print_table(errors, names)
    print_launches(launches)
    if options.json:
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


def judge_launches(profile: Profile) -> Iterator[Launches]:
    """The errors on launches of several prompts, of every shape of attention that has them."""
    rows = profile.of(model="", operator="prefill attention", history=0)
    names = ("heads", "kv_heads", "head_dim", "window", "kv_precision")
    shapes = sorted(set(zip(*(rows.columns[name].tolist() for name in names), strict=True)))
    for shape in shapes:
        own = rows.of(**dict(zip(names, shape, strict=True)))
        sizes = [own.columns[name].astype(np.float64) for name in ("prompts", "units", "history", "window")]
        prompts, queries, _, window = sizes
        seconds, one = own.columns["seconds"], prompts == 1
        if one.all():
            continue
        order = np.argsort(queries[one])
        units, alone = queries[one][order], seconds[one][order]
        # All are judged where the one prompt of the baseline lies within the measured lengths.
        within = np.sqrt(prompts) * queries <= units[-1]
        by_one = fit_together(*(size[one] for size in sizes), seconds[one])
        for count in np.unique(prompts[~one]).tolist():
            out = prompts == count
            by_others = fit_together(*(size[~out] for size in sizes), seconds[~out])
            for short in (True, False):
                judged = out & within & ((queries <= _SHORT) == short)
                if not judged.any():
                    continue
                asked = [size[judged] for size in sizes]
                single = np.interp(asked[1], units, alone)
                found = (
                    np.interp(np.sqrt(count) * asked[1], units, alone),
                    by_one.equal(single, *asked[:3]),
                    by_others.equal(single, *asked[:3]),
                )
                errors = ((each / seconds[judged] - 1).tolist() for each in found)
                yield Launches(profile.info.name, bool(window.any()), short, int(count), *errors)


def print_launches(launches: list[Launches]) -> None:
    """Of each profile and number of prompts: signed median, median and 90th percentile of the errors."""
    print("\nprefill attention of several prompts in one launch, each number held out")
    ways = ("one_prompt", "taught_by_one", "taught_by_others")
    heading = "  ".join(f"{name.replace('_', ' '):>26}" for name in ways)
    print(f"{'profile':34} {'keys':8} {'tokens':9} {'prompts':>7} {'measured':>9}  {heading}")

    def place(each: Launches) -> tuple[str, bool, bool, int]:
        return each.profile, each.windowed, each.short, each.prompts

    for profile, windowed, short, count in sorted({place(each) for each in launches}):
        own = [each for each in launches if place(each) == (profile, windowed, short, count)]
        errors = [np.concatenate([getattr(each, name) for each in own]) for name in ways]
        sizes = f"{'windowed' if windowed else 'all':8} {'up to' if short else 'over'} {_SHORT:<4}"
        cells = "  ".join(_three(each) for each in errors)
        print(f"{profile:34} {sizes:18} {count:7} {len(errors[0]):9,}  {cells}")


def _three(errors: Floats) -> str:
    size = np.abs(errors)
    return f"{np.median(errors):+8.1%} {np.median(size):8.1%} {np.percentile(size, 90):8.1%}"


def print_table(errors: list[Error], estimators: list[str]) -> None:
    """Median error of each class, weighted by measurements, by profile and estimator.

    `taken` is what a deployment takes for each operator, `best` what `estimator: best` would.
    """
    heading = f"{'profile':58} {'class':10} {'measured':>9}  "
    print(heading + "  ".join(f"{name:>13}" for name in (*estimators, "taken", "best")))
    for profile in dict.fromkeys(error.profile for error in errors):
        for kind in ("matmul", "experts", "attention", "memory", "network"):
            own = [error for error in errors if (error.profile, error.kind) == (profile, kind)]
            if not own:
                continue
            choices = [[error for error in own if error.estimator == name] for name in estimators]
            choices += [_chosen(own, _taken), _chosen(own, _best)]
            cells = [
                np.average([error.median for error in errors], weights=[error.rows for error in errors])
                for errors in choices
            ]
            count = sum(error.rows for error in choices[0])
            print(f"{profile:58} {kind:10} {count:9,}  " + "  ".join(f"{cell:13.1%}" for cell in cells))


def _chosen(errors: list[Error], choose: Callable[[list[Error]], Error]) -> list[Error]:
    """Of each operator the error of the estimator that is chosen."""
    groups: dict[tuple[str, int, str], list[Error]] = {}
    for error in errors:
        groups.setdefault((error.model, error.tensor, error.operator), []).append(error)
    return [choose(group) for group in groups.values()]


def _taken(group: list[Error]) -> Error:
    """Interpolation, or the fitted roofline where that is better and interpolation is not good."""
    quick = [error for error in group if error.estimator in ("interpolation", "roofline")]
    return quick[0] if quick[0].median <= _GOOD else _best(quick)


def _best(group: list[Error]) -> Error:
    return min(group, key=lambda error: error.median)


def _kind(operator: str, kinds: dict[str, Any]) -> str:
    if operator == "experts" or ("attention" in operator and operator not in kinds):
        return "experts" if operator == "experts" else "attention"
    return str(kinds.get(operator.split("+")[0], "memory"))


if __name__ == "__main__":
    main()
