"""`calibrate`: a measured run and its deployment in, a few coefficients out, and the error they leave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from triptych import catalog
from triptych.cost import IterationCost
from triptych.plan import PoolPlan, plan_pools, profile_names
from triptych.policy import Batch
from triptych.record import Run, read_run
from triptych.record.columns import BATCH_COLUMNS
from triptych.record.logs import Floats
from triptych.spec.base import SpecError
from triptych.spec.calibration import Calibration
from triptych.spec.deployment import Deployment
from triptych.spec.model import Model
from triptych.validation.calibration_delays import Delays, delays, link_share
from triptych.validation.calibration_fit import Fit, Observed, fit, relative_errors
from triptych.version import __version__

_FEWEST = 64
"""Batches."""
_BLOCKS, _LONGEST_BLOCK = 16, 50
"""A lane's batches are dealt in blocks of which every second is held out: a batch held out alone would have
its likes on both sides among those fitted. So many blocks at the least, of so many batches at the most."""
_STRAGGLERS = 0.03
"""By how much the time in all may be underestimated, more than that of single batches is, unmentioned."""
KINDS = ("with images", "with prompts", "decodes alone")
"""Of iterations, by what takes longest in them."""
ALL = "all iterations"


@dataclass(frozen=True)
class Errors:
    """Of batches: (predicted - measured) / measured."""

    median: float
    """Of the unsigned errors."""
    mean: float
    """Of the signed ones."""
    total: float
    """Of the time of all together."""


@dataclass(frozen=True)
class Judged:
    """Errors on batches that were held out."""

    kind: str
    """ALL, or one of KINDS."""
    batches: int
    before: Errors
    """As predicted without a calibration."""
    after: Errors


@dataclass(frozen=True)
class Calibrated:
    """What a run tells of its deployment."""

    calibration: Calibration
    fit: Fit
    batches: int
    """Fitted; those held out are in `errors`."""
    errors: tuple[Judged, ...]
    """Of all iterations first, then of each kind that there is."""
    delays: Delays | None
    """None: no record of a client was given."""
    transfers: int
    """From which the share of links is; 0: it was not fitted."""
    notes: tuple[str, ...]
    """What someone who uses it has to know."""


def calibrate(run: str | Path, deployment: str | Path, *, clients: Sequence[str | Path] = ()) -> Calibrated:
    """Fits a `Calibration` to half of the batches of a measured run; the other half says how good it is.

    Args:
        run: folder of the record that `triptych serve --record` wrote; or of a validation, which has records
            of its clients too.
        deployment: YAML file of what was served. A calibration that it names is left aside: factors are
            relative to a prediction without.
        clients: folders of benches of that server while it wrote the record.

    Raises:
        SpecError: the run is a prediction or a bench, is of another deployment, or has too few batches; or a
            client's requests are not in it.
    """
    server, benches = _folders(Path(run), [Path(client) for client in clients])
    record = read_run(server)
    _check_measured(record, server)
    file = Path(deployment)
    declared = Deployment.load(file).model_copy(update={"calibration": None})
    plans = {plan.name: plan for plan in plan_pools(declared, file)}
    _check_same(record, server, declared, plans, file)
    waits = delays(record, {bench: read_run(bench) for bench in benches}) if benches else None
    return calibrated(record, server, declared, file, waits)


def calibrated(
    record: Run, run: Path, declared: Deployment, deployment: Path, waits: Delays | None
) -> Calibrated:
    """As `calibrate`, of what has been read.

    Args:
        record: of a server.
        run: where it is.
        declared: what was served, without a calibration.
        deployment: where it was declared.
        waits: the clients' part; None: it is not known.

    Raises:
        SpecError: the record has too few batches.
    """
    plans = {plan.name: plan for plan in plan_pools(declared, deployment)}
    rows = _rows(record, plans)
    if len(rows.observed) < _FEWEST:
        problem = f"has {len(rows.observed):,} batches, and {_FEWEST} are the fewest; record a longer run"
        raise SpecError("", problem, file=run)
    found = fit(rows.observed.take(~rows.held_out))
    errors = tuple(_errors(rows, found.calibration))
    share, transfers = link_share(record, declared, plans) or (1.0, 0)
    notes = tuple(_notes(found, errors, waits))
    provenance = {
        "run": str(run),
        "deployment": str(deployment),
        "model": declared.model,
        "device": ", ".join(sorted({plan.device.name for plan in plans.values()})),
        "date": datetime.now(UTC).date().isoformat(),
        "version": f"triptych {__version__}",
        "batches": f"{len(rows.observed) - errors[0].batches:,} fitted, {errors[0].batches:,} held out",
        "error_before": _said(errors[0].before),
        "error_after": _said(errors[0].after),
    }
    if waits is not None:
        provenance["requests"] = f"{waits.requests:,}, of benches: {waits.records}"
    if transfers:
        provenance["transfers"] = f"{transfers:,}"
    if notes:
        provenance["notes"] = "; ".join(notes)
    calibration = found.calibration.model_copy(
        update={
            "link_share": share,
            "profiles": profile_names(plans.values()),
            "provenance": provenance,
            **({} if waits is None else _of_delays(waits)),
        }
    )
    return Calibrated(calibration, found, int((~rows.held_out).sum()), errors, waits, transfers, notes)


def _of_delays(waits: Delays) -> dict[str, float]:
    return {
        "front_end": waits.front_end,
        "front_end_image": waits.front_end_image or 0.0,
        "answer": waits.answer,
    }


# What is read ----------------------------------------------------------------------------------------


def _folders(run: Path, clients: Sequence[Path]) -> tuple[Path, list[Path]]:
    """The server's record and its clients': of a validation's folder, those in it."""
    if not (run / "validation.json").is_file():
        return run, list(clients)
    found = [*run.glob("measured-*"), *run.glob("load-*/measured-*")]
    return run / "server", [*sorted(folder for folder in found if folder.is_dir()), *clients]


def _check_measured(run: Run, file: Path) -> None:
    mend = "give the record that `triptych serve --record` wrote"
    if run.producer == "simulate":
        raise SpecError("", f"is a prediction, which has nothing to teach; {mend}", file=file)
    if run.producer == "bench":
        raise SpecError("", f"is of a client, which sees no batches; {mend}", file=file)
    if run.batch_log == "off" or not sum(map(len, run.lanes)):
        raise SpecError("", f"has no batches; {mend} while it had requests", file=file)


def _check_same(
    run: Run, folder: Path, declared: Deployment, plans: Mapping[str, PoolPlan], file: Path
) -> None:
    """Sees to it that the run is of this deployment, as far as times depend on it."""
    served = Deployment.load(folder / "deployment.yaml")
    model = next(iter(plans.values())).model
    if not _same_model(served.model, declared.model, model):
        problem = f"is {declared.model}, and {folder} is a run of {served.model}"
        raise SpecError("model", f"{problem}; give the deployment that was served", file=file)
    for name in dict.fromkeys(run.instances[lane.instance].pool for lane in run.lanes):
        if name not in plans:
            problem = (
                f"there is no {name}, which {folder} has batches of; give the deployment that was served"
            )
            raise SpecError("pools", problem, file=file)
        for field in ("device", "parallel", "precision"):
            if getattr(served.pools[name], field) != getattr(declared.pools[name], field):
                problem = f"is not as in {folder}; give the deployment that was served"
                raise SpecError(f"pools.{name}.{field}", problem, file=file)


def _same_model(served: str, declared: str, model: Model) -> bool:
    """Whether two names are of the same shapes; one may be of a file that is not here any more."""
    if served.removeprefix(catalog.RANDOM) == declared.removeprefix(catalog.RANDOM):
        return True
    try:
        other = catalog.model(served)
    except SpecError:
        return False
    return other.model_copy(update={"name": model.name, "source": model.source}) == model


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows of the batch log that took time."""

    observed: Observed
    kind: npt.NDArray[np.int64]
    """Of each, as a position in KINDS."""
    held_out: npt.NDArray[np.bool_]


def _rows(run: Run, plans: Mapping[str, PoolPlan]) -> _Rows:
    parts: list[dict[str, Floats]] = []
    for lane in run.lanes:
        cost = plans[run.instances[lane.instance].pool].cost
        rows = np.flatnonzero(lane.seconds > 0)
        columns = {name: column[rows] for name, column in lane.columns.items()}
        iterations = columns["iterations"].astype(np.float64)
        host = host_time(cost)
        kind = kinds(columns)
        block = np.clip(len(rows) // _BLOCKS, 1, _LONGEST_BLOCK)
        parts.append(
            {
                "seconds": lane.seconds[rows],
                "iterations": iterations,
                "sampled": iterations * columns["sampled"],
                "images": iterations * columns["images"],
                "iteration": np.full(len(rows), host.iteration),
                "sequence": np.full(len(rows), host.sequence),
                "kind": kind,
                "held_out": np.arange(len(rows)) // block % 2 == 1,
                **cost.breakdown(columns)[0],
            }
        )
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    kind, held_out = whole.pop("kind"), whole.pop("held_out")
    names = ("seconds", "iterations", "sampled", "images")
    own = {name: whole.pop(name) for name in names}
    of_host = (whole.pop("iteration"), whole.pop("sequence"))
    return _Rows(Observed(**own, host=of_host, predicted=whole), kind, held_out)


def kinds(columns: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Of rows of a batch log, as positions in KINDS."""
    return np.where(columns["images"] > 0, 0, np.where(columns["prefill_tokens"] > 0, 1, 2))


def host_time(cost: IterationCost) -> Calibration:
    """What is predicted for the host, told from a batch with nothing in it and one with a sequence alone."""
    nothing, one = Batch(), Batch()
    one.sampled = 1
    columns = {name: np.zeros(2, np.int64) for name in BATCH_COLUMNS}
    columns["iterations"] += 1
    columns["sampled"][1] = 1
    operators = sum(cost.breakdown(columns)[0].values(), np.zeros(2))
    iteration, sequence = np.array([cost.run(batch)[0] for batch in (nothing, one)]) - operators
    return Calibration(iteration=max(iteration, 0.0), sequence=max(sequence - iteration, 0.0))


# What is said ----------------------------------------------------------------------------------------


def _errors(rows: _Rows, calibration: Calibration) -> Iterator[Judged]:
    held = rows.observed.take(rows.held_out)
    kind = rows.kind[rows.held_out]
    before, after = held.uncalibrated(), held.calibrated(calibration)

    def judged(name: str, some: npt.NDArray[np.bool_]) -> Judged:
        took = held.seconds[some]
        return Judged(name, len(took), _between(before[some], took), _between(after[some], took))

    yield judged(ALL, kind >= 0)
    for code, name in enumerate(KINDS):
        some = kind == code
        if some.any() and not some.all():
            yield judged(name, some)


def _between(predicted: Floats, measured: Floats) -> Errors:
    errors = relative_errors(predicted, measured)
    total = float(predicted.sum() / measured.sum()) - 1
    return Errors(float(np.median(np.abs(errors))), float(np.mean(errors)), total)


def _said(error: Errors) -> str:
    median, mean, total = (value * 100 for value in (error.median, error.mean, error.total))
    return f"median {median:.1f} %, mean {mean:+.1f} %, of the time in all {total:+.1f} %"


def _notes(found: Fit, errors: Sequence[Judged], waits: Delays | None) -> Iterator[str]:
    for group in found.shared:
        yield f"{' and '.join(group)} share a factor: the run does not tell them apart"
    if found.unsure:
        yield f"{' and '.join(found.unsure)}: not told from host time, the factor is drawn towards 1"
    if found.small:
        yield f"{' and '.join(found.small)}: too little of the time to tell, the factor stays 1"
    if found.absent:
        yield f"{' and '.join(found.absent)}: not in the run, the factor stays 1"
    if waits is None:
        yield "front_end, answer: no bench was given, and they stay 0"
    else:
        if waits.front_end_image is None:
            yield "front_end_image: all requests have as many images, and it stays 0"
        if not waits.shared:
            yield "front_end, answer: the clocks of client and server are not known to agree; each is half"
    after = errors[0].after
    if after.total < min(after.mean, 0.0) - _STRAGGLERS:
        yield (
            f"in all, batches held out took {-after.total / (1 + after.total) * 100:.0f} % longer than "
            "predicted: some took far longer than their likes, as where other programs are at work"
        )
    if after.median >= errors[0].before.median:
        yield "on batches held out it is no better than no calibration: leave it"
