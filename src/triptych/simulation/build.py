"""From a deployment to a simulator: instances with their schedulers, routers, and the ways between pools."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

from triptych.cost import between, embedding_transfer_bytes, kv_transfer_bytes
from triptych.plan import PoolPlan
from triptych.policy import ROUTERS, Phase
from triptych.policy.request import ENCODE
from triptych.simulation.front import front_end
from triptych.simulation.lane import Lane, Lockstep
from triptych.simulation.pipeline import PipelineLane, SharedLane
from triptych.simulation.simulator import Instance, Simulator, Way
from triptych.simulation.traffic import Traffic
from triptych.spec.base import SpecError
from triptych.spec.deployment import Deployment
from triptych.workload import Requests


def build(
    deployment: Deployment,
    plans: list[PoolPlan],
    requests: Requests,
    *,
    jump: bool = True,
    file: str | Path | None = None,
) -> Simulator:
    """A simulator of the deployment, with the requests before it.

    Raises:
        SpecError: the requests have images and no pool encodes.
    """
    encodes = any(ENCODE in plan.phases for plan in plans)
    model = plans[0].model
    if len(requests.image_content) and model.vision is not None and not encodes:
        problem = "no pool runs encode, and the workload has images; add encode to the phases of one"
        raise SpecError("pools", problem, file=file)
    block_size = _hash_block_size(deployment)
    traffic = Traffic(requests, model, hash_block_size=block_size)
    known = plans[0].calibration or front_end(plans)
    simulator = Simulator(
        traffic,
        jump=jump,
        max_context=model.text.max_context,
        delay=known.front_end + known.answer,
        delay_per_image=known.front_end_image,
    )
    lane_numbers = count()
    for plan in plans:
        first = len(simulator.instances)
        pool = [
            _instance(simulator, plan, first + index, lane_numbers) for index in range(plan.pool.instances)
        ]
        simulator.add_pool(pool, plan.phases)
    names = (deployment.routers.encode, deployment.routers.prefill, deployment.routers.decode)
    for phase, name in zip(Phase, names, strict=True):
        targets = len(simulator.serving[phase])
        if targets > 1:
            simulator.routers[phase] = ROUTERS[name](
                targets, seed=deployment.seed + phase, block_size=block_size or 1
            )
    for source in plans:
        for target in plans:
            simulator.ways[source.name, target.name] = _way(deployment, source, target)
    return simulator


def _instance(simulator: Simulator, plan: PoolPlan, number: int, lane_numbers: Iterator[int]) -> Instance:
    parallel = plan.pool.parallel
    free_at = [0.0] * parallel.pipeline
    lanes: list[Lane] = []
    shared: list[SharedLane] = []
    for scheduler in plan.schedulers():
        place = next(lane_numbers)
        if parallel.pipeline > 1:
            staged = {"instance": number, "number": place}
            if scheduler.shares:
                lanes.append(
                    SharedLane(simulator, scheduler, plan.cost, **staged, free_at=free_at, lanes=shared)
                )
            else:
                lanes.append(PipelineLane(simulator, scheduler, plan.cost, **staged, free_at=free_at))
        else:
            lanes.append(
                Lane(
                    simulator,
                    scheduler,
                    plan.cost,
                    instance=number,
                    number=place,
                    lookahead=plan.pool.scheduler.lookahead,
                )
            )
    if parallel.data > 1:
        Lockstep(simulator, lanes, plan.cost)
    return Instance(number, plan.name, lanes)


def _way(deployment: Deployment, source: PoolPlan, target: PoolPlan) -> Way:
    out, into = between(deployment.links, source, target)
    share = 1.0 if source.calibration is None else source.calibration.link_share
    return Way(
        out=out.bandwidth * share,
        into=into.bandwidth * share,
        latency=max(out.latency, into.latency),
        bytes_per_token=(
            0.0,
            embedding_transfer_bytes(source.model, source.pool, 1) if source.model.vision else 0.0,
            kv_transfer_bytes(source.model, source.pool, 1),
        ),
    )


def _hash_block_size(deployment: Deployment) -> int | None:
    """Tokens of the blocks that prompts are hashed in, if anything looks at the hashes."""
    sizes = [pool.block_size for pool in deployment.pools.values() if pool.prefix_cache]
    if sizes:
        return sizes[0]
    if "prefix-affinity" in (deployment.routers.prefill, deployment.routers.decode):
        return next(pool.block_size for pool in deployment.pools.values() if "prefill" in pool.phases)
    return None
