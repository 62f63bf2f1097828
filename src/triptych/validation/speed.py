"""How long a server's batches took, beside what is predicted for the very same batches.

What is left of an error of latencies where batches took as long as predicted lies in scheduling, queueing or
the front end; where they took longer it is the operators', or the machine's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from triptych.plan import PoolPlan
from triptych.record import Run
from triptych.record.logs import Floats
from triptych.report.format import percent
from triptych.validation.calibrate import KINDS, host_time, kinds

_MENTIONED = 0.05
"""Share of their time by which batches take longer or shorter."""


def speed_notes(server: Run, plans: Mapping[str, PoolPlan]) -> Iterator[str]:
    """What to say of the batches of a server's record.

    Args:
        server: the record.
        plans: of the deployment that predicts, by pool.
    """
    measured, predicted = by_kind(server, plans)
    there = predicted > 0
    if not there.any():
        return
    longer = measured.sum() / predicted.sum() - 1
    if abs(longer) <= _MENTIONED:
        return
    apart = ", ".join(
        f"{round(100 * (measured[code] / predicted[code] - 1)):+d}% {KINDS[code]}"
        for code in np.flatnonzero(there)
    )
    yield (
        f"the same batches took {percent(abs(longer))} {'more' if longer > 0 else 'less'} time than is "
        f"predicted for them ({apart}), which latencies near capacity feel several times over"
    )


def by_kind(server: Run, plans: Mapping[str, PoolPlan]) -> tuple[Floats, Floats]:
    """Seconds of the batches of a server's record, measured and predicted, each of shape (kinds,)."""
    measured, predicted = np.zeros(len(KINDS)), np.zeros(len(KINDS))
    for lane in server.lanes:
        plan = plans[server.instances[lane.instance].pool]
        host = host_time(plan.cost)
        image = 0.0 if plan.calibration is None else plan.calibration.image
        parts = plan.cost.breakdown(lane.columns)[0].values()
        each = host.iteration + host.sequence * lane["sampled"] + image * lane["images"]
        seconds = lane["iterations"] * each
        kind = kinds(lane.columns)
        measured += np.bincount(kind, lane.seconds, len(KINDS))
        predicted += np.bincount(kind, sum(parts, seconds), len(KINDS))
    return measured, predicted
