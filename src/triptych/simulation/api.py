"""`simulate`: a deployment and a workload in, a run record out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from triptych.plan import PoolPlan, check_calibration, plan_pools, rooted
from triptych.record import Run
from triptych.record.assemble import lane_log, request_columns, spans, transfers
from triptych.record.held import held_back
from triptych.record.logs import Floats
from triptych.simulation.build import build
from triptych.simulation.interval import prediction_interval
from triptych.simulation.provenance import predicted_from
from triptych.simulation.simulator import Progress, Simulator
from triptych.spec.base import Spec, SpecError, read_yaml
from triptych.spec.deployment import Deployment
from triptych.spec.workload import WorkloadSpec
from triptych.version import __version__
from triptych.workload import Requests, generate


def simulate(
    deployment: Deployment | str | Path,
    workload: WorkloadSpec | Requests | str | Path,
    *,
    overrides: Sequence[str] = (),
    jump: bool = True,
    interval: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Predicts what a deployment does under a workload.

    Args:
        deployment: the declaration, or the YAML file that holds it.
        workload: likewise; or the very requests.
        overrides: `path.to.field=value` set on the deployment; those that begin with `workload.` on the
            workload. Only for declarations that are read from files.
        jump: whether runs of equal iterations are leapt over; without, each is stepped through, with the
            same result to rounding.
        interval: whether to run it twice more, with every batch as fast and as slow as its time may well be:
            `meta["interval"]` then has a 90 % interval of the latencies and of throughput, and bounds of the
            SLO that lie within it are uncertain.
        progress: called every few thousand events with (requests that have ended, requests in all, virtual
            seconds); if it returns False the run is cut short and what is finished is kept.

    Returns:
        The run record; `triptych.summarise` computes the metrics from it.

    Raises:
        SpecError: something declared is wrong or cannot be run.

    Example:
        >>> import triptych
        >>> run = triptych.simulate(
        ...     "examples/deployments/epd.yaml", "examples/workloads/vision-chat.yaml"
        ... )  # doctest: +SKIP
        >>> triptych.summarise(run).latency["ttft"].p99  # doctest: +SKIP
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
    plans = plan_pools(deployment, deployment_file)
    check_calibration(plans, deployment_file)
    deployment = rooted(deployment, deployment_file)
    requests = workload if isinstance(workload, Requests) else generate(workload, file=workload_file)
    try:
        simulator = build(deployment, plans, requests, jump=jump, file=deployment_file)
    except SpecError as error:
        if error.file is None and error.field == "images":
            raise SpecError(error.field, error.problem, file=workload_file) from None
        raise
    simulator.run(progress)
    run = _record(simulator, plans, requests, deployment, time.perf_counter() - began)
    if not isinstance(workload, Requests):
        slo = [] if workload.slo is None else workload.slo.bounds()
        run = replace(run, slo=slo, meta={**run.meta, "declared_rate": workload.rate})
    if interval and not run.interrupted:

        def again(scaled: list[PoolPlan]) -> Run:
            other = build(deployment, scaled, requests, jump=jump)
            other.run(None)
            scaled_run = _record(other, scaled, requests, deployment, 0.0)
            return replace(scaled_run, meta=run.meta)

        run = replace(run, meta={**run.meta, "interval": prediction_interval(run, plans, again)})
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


def _record(
    simulator: Simulator,
    plans: list[PoolPlan],
    requests: Requests,
    deployment: Deployment,
    wall_seconds: float,
) -> Run:
    """The run record of a simulator that has run."""
    simulator.close()
    recorder = simulator.recorder
    columns = request_columns(recorder, requests.output_tokens)
    held = {"held_back": held_back(requests.arrival, columns["arrival"])} if requests.is_held_back else {}
    ends = columns["end"][~np.isnan(columns["end"])]
    done = len(ends) == len(requests)
    by_pool = {plan.name: plan for plan in plans}
    owners = [instance for instance in simulator.instances for _ in instance.lanes]
    lanes = [
        lane_log(lane.journal, number, by_pool[instance.pool].cost)
        for instance in simulator.instances
        for number, lane in enumerate(instance.lanes)
    ]
    return Run(
        requests=columns,
        lanes=lanes,
        spans=spans(recorder),
        transfers=transfers(recorder),
        instances=[by_pool[place.pool].describe(place.number) for place in simulator.instances],
        horizon=_horizon(ends, simulator) if done and len(ends) else simulator.now,
        deployment_yaml=deployment.to_yaml(),
        producer="simulate",
        interrupted=simulator.interrupted,
        meta={
            "version": __version__,
            "wall_seconds": wall_seconds,
            "efficiencies": {plan.name: plan.device.efficiency.source for plan in plans},
            "calibrated": plans[0].calibration is not None,
            "predicted_from": predicted_from(lanes, [by_pool[place.pool].cost for place in owners]),
            **held,
        },
    )


def _horizon(ends: Floats, simulator: Simulator) -> float:
    """When all is over: a batch may run on after the clients of its requests have given up."""
    runners = [lane.runner for instance in simulator.instances for lane in instance.lanes]
    return max(float(ends.max()), *(runner.end for runner in runners))
