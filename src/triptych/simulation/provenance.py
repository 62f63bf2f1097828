"""What a prediction rests on: measurements, what lies between them, or the roofline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from triptych.cost import IterationCost
from triptych.record.logs import LaneLog

SOURCES = ("measured", "interpolated", "roofline")


def predicted_from(lanes: Sequence[LaneLog], costs: Sequence[IterationCost]) -> dict[str, float]:
    """Shares of the predicted seconds of all batches, host time left out; empty if none was run.

    Args:
        lanes: logs of all lanes.
        costs: of each lane's instance.
    """
    if not any(cost.measured for cost in costs):
        return {"measured": 0.0, "interpolated": 0.0, "roofline": 1.0} if costs else {}
    totals = np.zeros(3)
    for lane, cost in zip(lanes, costs, strict=True):
        _, seconds = cost.breakdown(lane.columns)
        totals += seconds.sum(axis=0)
    if not totals.any():
        return {}
    return dict(zip(SOURCES, (totals / totals.sum()).tolist(), strict=True))
