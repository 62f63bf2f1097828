"""Host time of an engine, learned from its other runs: never from the run that is judged.

Kernel tables hold no scheduling, sampling or messages between processes. In a closed loop of c requests every
iteration does this for c sequences, and every token takes one iteration: what is missing of TPOT is
`iteration + sequence x c`. It is fitted to the runs of the same model, format and engine under every *other*
tensor parallelism, and then used for the one that was left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cases.case import Case, Floats
from triptych.spec.calibration import Calibration

_ROUNDS = 10
"""Of reweighting, by which single runs that are far off lose their pull."""
_CLOSE = 0.02
"""Relative error within which all runs weigh alike."""


@dataclass(frozen=True)
class Sample:
    """A run, and its TPOT as predicted without any host time."""

    case: Case
    predicted: float

    @property
    def group(self) -> str:
        """Model and format: one engine ran all of them."""
        return " ".join(self.case.name.split()[:2])

    @property
    def tensor(self) -> int:
        """Devices of the run."""
        return next(iter(self.case.deployment.pools.values())).parallel.tensor


def host_time(judged: Sample, samples: Sequence[Sample]) -> Calibration | None:
    """For one run, from the runs of its group under another parallelism; None if there is none."""
    others = [each for each in samples if each.group == judged.group and each.tensor != judged.tensor]
    if len({each.case.requests.concurrency for each in others}) < 2:
        return None
    measured = np.array([each.case.measured["tpot"][0] for each in others])
    missing = measured - np.array([each.predicted for each in others])
    running = np.array([float(each.case.requests.concurrency or 0) for each in others])
    iteration, sequence = _fit(missing / measured, 1 / measured, running / measured)
    return Calibration(iteration=iteration, sequence=sequence)


def _fit(target: Floats, *columns: Floats) -> list[float]:
    """Non-negative coefficients with the least sum of absolute errors (iteratively reweighted)."""
    from scipy.optimize import nnls

    design, weight = np.stack(columns, axis=1), np.ones(len(target))
    for _ in range(_ROUNDS):
        found, _ = nnls(design * weight[:, None], target * weight)
        weight = np.sqrt(1 / np.maximum(np.abs(design @ found - target), _CLOSE))
    return [float(each) for each in found]
