"""`simulate`: a deployment and a workload in, a run record out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from triptych.plan import check_calibration, plan_pools, rooted
from triptych.profiles.here import with_profiles
from triptych.record import Run
from triptych.simulation.again import Case, all_figures
from triptych.simulation.build import build
from triptych.simulation.interval import Figures, prediction_interval
from triptych.simulation.notes import deployment_notes
from triptych.simulation.outcome import outcome
from triptych.simulation.simulator import Progress
from triptych.spec.base import Spec, SpecError, read_yaml
from triptych.spec.deployment import Deployment
from triptych.spec.workload import WorkloadSpec
from triptych.workload import Requests, generate


def simulate(
    deployment: Deployment | str | Path,
    workload: WorkloadSpec | Requests | str | Path,
    *,
    overrides: Sequence[str] = (),
    jump: bool = True,
    interval: bool = False,
    left: float = 1.0,
    progress: Progress | None = None,
) -> Run:
    """Predicts what a deployment does under a workload.

    A pool of the CPU at hand (`device: CPU`) that names no profile rests on one of the library that was
    measured on this machine, if there is one.

    Args:
        deployment: the declaration, or the YAML file that holds it.
        workload: likewise; or the very requests.
        overrides: `path.to.field=value` set on the deployment; those that begin with `workload.` on the
            workload. Only for declarations that are read from files.
        jump: whether runs of equal iterations are leapt over; without, each is stepped through, with the
            same result to rounding.
        interval: whether to run it twice more, with every batch as fast and as slow as its time may well be:
            `meta["interval"]` then has a 90 % interval of the latencies and of throughput, and bounds of the
            SLO that lie within it are uncertain. Where that takes long both are run at once, on two cores.
        left: share of every device that other programs leave: batches take 1 / left times as long.
        progress: called every few thousand events with (requests that have ended, requests in all, virtual
            seconds), once more from the start for the interval; if it returns False the run is cut short and
            what is finished is kept, and an interval that is not finished is left out.

    Returns:
        The run record; `triptych.summarise` computes the metrics from it.

    Raises:
        SpecError: something declared is wrong or cannot be run.

    Example:
        >>> import triptych
        >>> files = "examples/deployments/epd.yaml", "examples/workloads/vision-chat.yaml"
        >>> run = triptych.simulate(*files, overrides=["workload.requests=20"])
        >>> triptych.summarise(run).latency["ttft"].p99 < 1
        True
    """
    began = time.perf_counter()
    deployment_file, workload_file = _file(deployment), _file(workload)
    own = [text for text in overrides if not text.startswith("workload.")]
    others = [text.removeprefix("workload.") for text in overrides if text.startswith("workload.")]
    for declared, given in ((deployment_file, own), (workload_file, others)):
        if declared is None and given:
            problem = f"{given[0]}: overrides change files that are read; change the object itself instead"
            raise SpecError("overrides", problem)
    if not isinstance(deployment, Deployment):
        deployment = _load_deployment(deployment, own)
    if isinstance(workload, (str, Path)):
        workload = _load_workload(workload, others)
    elif isinstance(workload, WorkloadSpec):
        workload = workload.rooted()
    plans = plan_pools(deployment, deployment_file)
    check_calibration(plans, deployment_file)
    deployment, at_hand, to_measure = with_profiles(rooted(deployment, deployment_file))
    if at_hand:
        plans = plan_pools(deployment)
    if left < 1:
        plans = [replace(plan, cost=plan.cost.scaled(1 / left)) for plan in plans]
    requests = workload if isinstance(workload, Requests) else generate(workload, file=workload_file)
    try:
        simulator = build(deployment, plans, requests, jump=jump, file=deployment_file)
    except SpecError as error:
        if error.file is None and error.field == "images":
            raise SpecError(error.field, error.problem, file=workload_file) from None
        raise
    simulator.run(progress)
    run = outcome(simulator, plans, requests, deployment, time.perf_counter() - began)
    if not isinstance(workload, Requests):
        slo = [] if workload.slo is None else workload.slo.bounds()
        run = replace(run, slo=slo, meta={**run.meta, "declared_rate": workload.rate})
    notes = list(deployment_notes(run, plans, requests))
    own_profiles = {"profiles_at_hand": list(at_hand), "to_measure": list(to_measure)}
    run = replace(run, meta={**run.meta, "notes": notes, **own_profiles})
    if interval and not run.interrupted:
        case = Case(deployment, requests, jump, run.slo, run.meta, run.horizon)
        seconds = time.perf_counter() - began

        def again(slownesses: list[dict[str, float]]) -> list[Figures] | None:
            return all_figures(case, slownesses, plans, progress, seconds)

        found = prediction_interval(run, plans, again)
        if found is not None:
            run = replace(run, meta={**run.meta, "interval": found})
    if isinstance(workload, Requests):
        return run
    return replace(run, workload_yaml=workload.to_yaml(), meta={**run.meta, "seed": workload.seed})


def _load_deployment(file: str | Path, overrides: Sequence[str]) -> Deployment:
    for text in overrides:
        field = text.partition("=")[0].partition(".")[0].strip()
        if field in WorkloadSpec.model_fields and field not in Deployment.model_fields:
            problem = f"the deployment has no such field; for that of the workload write workload.{text}"
            raise SpecError(f"--set {text}", problem)
    try:
        return Deployment.load(file, overrides)
    except SpecError:
        _check_place(file, is_=WorkloadSpec, belongs=Deployment)
        raise


def _load_workload(file: str | Path, overrides: Sequence[str]) -> WorkloadSpec:
    try:
        return WorkloadSpec.load(file, overrides)
    except SpecError as error:
        _check_place(file, is_=Deployment, belongs=WorkloadSpec)
        field = error.field.replace("--set ", "--set workload.", 1)  # named as it was written
        raise SpecError(field, error.problem, file=error.file) from None


def _check_place(file: str | Path, *, is_: type[Spec], belongs: type[Spec]) -> None:
    """Tells a file that declares something wrong from one that stands in the other's place."""
    try:
        given = set(read_yaml(file))
    except (SpecError, TypeError):  # the mistake is another
        return
    if given and given <= set(is_.model_fields) and not given <= set(belongs.model_fields):
        words = {Deployment: "a deployment", WorkloadSpec: "a workload"}
        problem = f"is {words[is_]}, where {words[belongs]} belongs"
        raise SpecError("", f"{problem}; write the deployment first, then the workload", file=file)


def _file(declared: object) -> str | Path | None:
    return declared if isinstance(declared, (str, Path)) else None
