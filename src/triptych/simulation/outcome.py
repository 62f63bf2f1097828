"""The run record of a simulator that has run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from triptych.plan import PoolPlan, with_defaults
from triptych.record import Run
from triptych.record.assemble import lane_log, request_columns, spans, transfers
from triptych.record.held import held_back
from triptych.record.logs import Floats
from triptych.simulation.provenance import predicted_from
from triptych.simulation.simulator import Simulator
from triptych.spec.deployment import Deployment
from triptych.version import __version__
from triptych.workload import Requests


def outcome(
    simulator: Simulator,
    plans: Sequence[PoolPlan],
    requests: Requests,
    deployment: Deployment,
    wall_seconds: float,
) -> Run:
    """What a simulator has recorded.

    Args:
        simulator: has run.
        plans: of its pools.
        requests: that came.
        deployment: it is of.
        wall_seconds: since it was asked for.
    """
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
        deployment_yaml=with_defaults(deployment).to_yaml(),
        producer="simulate",
        interrupted=simulator.interrupted,
        meta={
            "version": __version__,
            "wall_seconds": wall_seconds,
            "efficiencies": {plan.name: plan.device.efficiency.source for plan in plans},
            "model_context": plans[0].model.text.max_context,
            "calibrated": plans[0].calibration is not None,
            "predicted_from": predicted_from(lanes, [by_pool[place.pool].cost for place in owners]),
            **held,
        },
    )


def _horizon(ends: Floats, simulator: Simulator) -> float:
    """When all is over: a batch may run on after the clients of its requests have given up."""
    runners = [lane.runner for instance in simulator.instances for lane in instance.lanes]
    return max(float(ends.max()), *(runner.end for runner in runners))
