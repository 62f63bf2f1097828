"""What of a deployment does not do what it seems to be declared for, to be said beside a run's tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from triptych.plan import PoolPlan
from triptych.record import Run
from triptych.workload import Requests


def deployment_notes(run: Run, plans: Sequence[PoolPlan], requests: Requests) -> Iterator[str]:
    """The notes, one sentence each.

    Args:
        run: of the requests.
        plans: of the pools.
        requests: as they came.
    """
    used = {lane.instance for lane in run.lanes if len(lane)}
    for plan in plans:
        mine = [instance.id for instance in run.instances if instance.pool == plan.name]
        idle = len(mine) - len(used.intersection(mine))
        if idle == len(mine):
            yield f"pool {plan.name} was never used: no request needed it"
        elif idle:
            yield f"pool {plan.name}: {idle} of {len(mine)} instances were never used"
        if plan.pool.prefix_cache and not len(requests.prefix_ids):
            yield (
                f"pool {plan.name}: prefix_cache finds nothing, as the workload has no ids or groups of "
                "prompts that share a prefix"
            )
        devices, node = plan.pool.parallel.devices, plan.node
        if node is not None and devices > node.devices:
            yield (
                f"pool {plan.name}: an instance of {devices} devices crosses nodes of {node.devices}, so "
                "that its collectives go over the network"
            )
