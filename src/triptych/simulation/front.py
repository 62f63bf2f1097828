"""The time around the scheduler on the machine at hand, as its profile has it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from triptych.catalog.here import CPU
from triptych.plan import PoolPlan
from triptych.profiles.library import load_profile
from triptych.spec.calibration import Calibration

FRONT_END = "front end"
"""The operator: from sending a request with `units` images to its first token, less the engine."""


def front_end(plans: Sequence[PoolPlan]) -> Calibration:
    """Delays before a scheduler sees a request, and for each of its images.

    Nothing where no pool rests on a profile of the CPU at hand that has them: other servers have other front
    ends.
    """
    for plan in plans:
        for name in plan.pool.profile if plan.device.name == CPU else ():
            rows = load_profile(name, model=plan.model).of(operator=FRONT_END, model=plan.model.name).columns
            images, seconds = rows["units"].astype(np.float64), rows["seconds"]
            if len(seconds) == 1:
                return Calibration(front_end=float(seconds[0]))
            if len(seconds):
                each, first = np.polyfit(images, seconds, 1)
                return Calibration(front_end=max(float(first), 0.0), front_end_image=max(float(each), 0.0))
    return Calibration()
