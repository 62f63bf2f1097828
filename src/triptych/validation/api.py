"""`validate`: a deployment is served, benched, and predicted under the same requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from triptych.bench import bench
from triptych.engine.servable import only_pool
from triptych.plan import PoolPlan, check_calibration, plan_pools, rooted
from triptych.profiler.others import Others
from triptych.profiler.waiting import busiest_child
from triptych.profiles.here import with_profiles
from triptych.profiles.library import load_profile
from triptych.record import Run, read_run
from triptych.report.compare import compare
from triptych.spec.base import SpecError
from triptych.spec.deployment import Deployment
from triptych.spec.workload import WorkloadSpec
from triptych.validation import files
from triptych.validation.calibrate import calibrated
from triptych.validation.calibration_delays import delays
from triptych.validation.calibration_report import write_calibration
from triptych.validation.during import during
from triptych.validation.left import Clocks, share_left
from triptych.validation.load import answer_rate, at_rate, check_loads, check_rate, saturate
from triptych.validation.notes import kernel_notes, left_notes, machine_notes, run_notes
from triptych.validation.replay import predict, workload_of
from triptych.validation.result import Level, Validation
from triptych.validation.server import Served, served
from triptych.validation.speed import by_kind, speed_notes
from triptych.validation.watch import GoOn, Progress, Watch
from triptych.workload import Requests, generate

EnsureProfile = Callable[[Deployment, Requests, GoOn], Deployment]
"""Sees to it that the pools of a deployment name profiles of their devices, for these requests; returns what
to predict with. Its last argument is called while that takes time."""

_WARMUP = 8
"""Requests before the first that count: allocators and caches of the libraries fill."""


def validate(
    deployment: str | Path,
    workload: str | Path,
    out: str | Path,
    *,
    overrides: Sequence[str] = (),
    repeats: int = 3,
    loads: Sequence[float] = (),
    calibrate: bool = False,
    ensure_profile: EnsureProfile | None = None,
    progress: Progress | None = None,
) -> Validation:
    """Serves a deployment on this machine, benches it, and predicts what was measured.

    Every repetition sends the same requests with other contents, so that nothing of the one before is in a
    cache. When all are measured the server is stopped, and the requests of each are simulated as they came.

    Args:
        deployment: YAML file of what can be served here.
        workload: YAML file.
        out: folder for what is found; an earlier validation in it is replaced.
        overrides: `path.to.field=value` set on the deployment; those that begin with `workload.` on the
            workload.
        repeats: times that the workload is measured.
        loads: shares of the capacity, up to 1, at which it is, each with all repetitions; none: at its own
            times.
        calibrate: whether predictions rest on a calibration to the closed loop that tells the capacity.
        ensure_profile: is asked before the server is started; None: the deployment is taken as it is.
        progress: called several times a second.

    Raises:
        SpecError: something declared is wrong, or the server does not start, dies, or answers nothing.
        Interrupted: `progress` said so; repetitions that were measured to the end are in `out`.
    """
    if repeats < 1:
        raise SpecError("--repeats", f"must be 1 or more, not {repeats}")
    if calibrate and not loads:
        raise SpecError("--calibrate", "rests on the run that tells the capacity; add --load")
    check_loads(loads)
    watch, out = Watch(progress), Path(out)
    own = [text for text in overrides if not text.startswith("workload.")]
    declared = rooted(Deployment.load(deployment, own), deployment)
    pools = plan_pools(declared, deployment)
    only_pool(declared, deployment)
    spec = _load_workload(workload, overrides)
    requests = generate(spec, file=workload)
    if loads:
        check_rate(requests, workload)
    files.begin(out)
    measuring = watch.step("measuring operators")
    used = (
        with_profiles(declared)[0]
        if ensure_profile is None
        else ensure_profile(declared, requests, measuring)
    )
    watch.check()
    check_calibration(plan_pools(used, deployment), deployment)
    others = Others()
    loading = watch.step("starting the server")
    capacity, concurrency, saturated = None, None, None
    measured: list[_Measured] = []
    with served(
        Path(deployment),
        own,
        record=out / files.SERVER,
        log=out / files.LOG,
        go_on=lambda seconds: loading(0, 0, seconds),
    ) as server:
        files.clear(out)
        files.write_declared(used, spec, out)
        if loads:
            concurrency = sum(plan.pool.scheduler.max_batch for plan in pools)
            saturated = _saturated(server, spec, len(requests), concurrency, out / files.CAPACITY, watch)
            capacity = answer_rate(saturated)
        for load in loads or (None,):
            at = requests if load is None or capacity is None else at_rate(requests, load * capacity)
            level = _Measured(load, files.level_folder(out, load), at)
            measured.append(level)
            for _ in range(repeats):
                number = sum(len(one.runs) for one in measured)
                level.measure(server, spec, number, warm=loads != () or number > 0, watch=watch)
    notes = tuple(machine_notes(others.cores()))
    # A server that had to be killed has left none.
    record = read_run(out / files.SERVER) if calibrate or (out / files.SERVER).is_dir() else None
    if calibrate and saturated is not None and record is not None:
        used = _calibrated(record, saturated, used, out)
        files.write_declared(used, spec, out)
    levels = tuple(_level(one, used, spec, notes, record, watch) for one in measured)
    validation = Validation(_name(pools[0]), levels, capacity, concurrency, calibrated=calibrate)
    files.write_validation(validation, out)
    return validation


def _name(plan: PoolPlan) -> str:
    return f"{plan.model.name} on {plan.device.name}, {plan.pool.scheduler.policy}"


@dataclass(eq=False)
class _Measured:
    """A level as far as it is measured."""

    load: float | None
    folder: Path
    requests: Requests
    runs: list[Run] = field(default_factory=list)
    clocks: list[tuple[Clocks, Clocks]] = field(default_factory=list)
    """Before and after each run."""

    @property
    def name(self) -> str:
        return "" if self.load is None else f" at load {self.load:g}"

    def measure(self, server: Served, spec: WorkloadSpec, number: int, *, warm: bool, watch: Watch) -> None:
        """One more repetition, the `number`-th of all; its contents are drawn by that."""
        self.folder.mkdir(exist_ok=True)
        place = len(self.runs) + 1
        workload = workload_of(self.requests, self.folder / files.REQUESTS, spec, spec.seed + 1 + number)
        worker = busiest_child(server.process.pid)
        before = Clocks.now(worker)
        run = watch.bench(
            server,
            f"measuring{self.name}, {place}",
            lambda go_on: bench(workload, server.url, warmup=0 if warm else _WARMUP, progress=go_on),
        )
        if not run.finished.any():
            why = next(iter(run.meta["errors"]), "all clients gave up before")
            raise SpecError("", f"no request was answered ({why}); what the server said is in {server.log}")
        self.clocks.append((before, Clocks.now(worker)))
        files.write_measured(run, self.folder / f"{files.MEASURED}{place}")
        self.runs.append(run)

    def left(self, record: Run | None, plans: Mapping[str, PoolPlan]) -> list[float]:
        """What other programs left of the machine in each run.

        Args:
            record: the server's; None: it left none, and nothing is known.
            plans: what predicts how long its batches take alone.
        """
        if record is None:
            return [1.0] * len(self.runs)
        alone = [float(by_kind(during(record, [run]), plans)[1].sum()) for run in self.runs]
        return [share_left(*clocks, seconds) for clocks, seconds in zip(self.clocks, alone, strict=True)]


def _load_workload(workload: str | Path, overrides: Sequence[str]) -> WorkloadSpec:
    own = [text.removeprefix("workload.") for text in overrides if text.startswith("workload.")]
    try:
        return WorkloadSpec.load(workload, own)
    except SpecError as error:
        field = error.field.replace("--set ", "--set workload.", 1)  # named as it was written
        raise SpecError(field, error.problem, file=error.file) from None


def _saturated(
    server: Served, spec: WorkloadSpec, count: int, concurrency: int, folder: Path, watch: Watch
) -> Run:
    """Of a closed loop that is always full."""
    run = watch.bench(
        server,
        "finding the capacity",
        lambda go_on: saturate(spec, count, concurrency, server.url, warmup=_WARMUP, progress=go_on),
    )
    files.write_measured(run, folder)
    return run


def _calibrated(record: Run, saturated: Run, deployment: Deployment, out: Path) -> Deployment:
    """The deployment with a calibration to the batches of the closed loop, which is written to `out`."""
    plain = deployment.model_copy(update={"calibration": None})
    waits = delays(record, {out / files.CAPACITY: saturated})
    part = during(record, [saturated])
    found = calibrated(part, out / files.SERVER, plain, out / "deployment.yaml", waits)
    write_calibration(found.calibration, out / files.CALIBRATION)
    return deployment.model_copy(update={"calibration": str((out / files.CALIBRATION).absolute())})


def _level(
    measured: _Measured,
    deployment: Deployment,
    spec: WorkloadSpec,
    notes: Sequence[str],
    record: Run | None,
    watch: Watch,
) -> Level:
    """With what is predicted for each repetition."""
    alone = {plan.name: plan for plan in plan_pools(deployment)}
    predicted, left = [], measured.left(record, alone)
    for place, run in enumerate(measured.runs, start=1):
        go_on = watch.step(f"predicting{measured.name}, {place}")
        go_on(0, len(run), 0.0)  # a short prediction does not ask
        watch.check()
        replay = measured.folder / f"{files.REPLAY}{place}.parquet"
        share = left[place - 1]
        predicted.append(predict(deployment, spec, measured.requests, run, replay, go_on, share))
        watch.check()
        files.write_predicted(predicted[-1], measured.folder / f"{files.PREDICTED}{place}")
    comparisons = [compare(*pair) for pair in zip(predicted, measured.runs, strict=True)]
    if record is not None:
        slower = 1 / float(np.mean(left))
        plans = {name: replace(plan, cost=plan.cost.scaled(slower)) for name, plan in alone.items()}
        for plan, name in ((each, name) for each in plans.values() for name in each.pool.profile):
            profile = load_profile(name, model=plan.model, device=plan.device.name)
            known = profile.info.versions.get("kernels", "")
            notes = (*notes, *kernel_notes(known, record.meta.get("kernels", {})))
        notes = (*notes, *left_notes(left), *speed_notes(during(record, measured.runs), plans))
    notes = (*notes, *run_notes(measured.runs, predicted, comparisons))
    level = Level(measured.load, measured.folder, tuple(measured.runs), tuple(predicted), notes)
    if level.worst is None:
        raise SpecError("", "no request finished both as predicted and as measured", file=measured.folder)
    return level
