"""How long a server's batches took, beside what is predicted for the very same batches.

What is left of an error of latencies when batches took as long as predicted lies in scheduling, queueing or
the front end; what batches took longer is the operators', or the machine's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.plan import PoolPlan
from triptych.record import Run
from triptych.record.logs import Floats
from triptych.report.format import percent
from triptych.validation.calibrate import KINDS, host_time, kinds
from triptych.validation.calibration_delays import BEGAN

_MENTIONED = 0.05
"""Share of their time by which batches take longer or shorter."""


@dataclass(frozen=True, eq=False)
class Batches:
    """Of a server's record, arrays of shape (rows,)."""

    start: Floats
    """Unix time, seconds."""
    measured: Floats
    """Seconds."""
    predicted: Floats
    """Seconds, host time included."""
    kind: NDArray[Any]
    """Position in KINDS."""

    def notes(self, runs: Sequence[Run]) -> Iterator[str]:
        """What to say of those that ran while clients measured.

        Args:
            runs: the clients' records.
        """
        during = np.zeros(len(self.start), dtype=np.bool_)
        for run in runs:
            begin = run.meta.get(BEGAN, np.inf)
            during |= (self.start >= begin) & (self.start < begin + run.horizon)
        whole = self._longer(during)
        if whole is None or abs(whole) <= _MENTIONED:
            return
        parts = []
        for code, name in enumerate(KINDS):
            longer = self._longer(during & (self.kind == code))
            if longer is not None:
                parts.append(f"{longer:+.0%} {name}")
        how = "longer" if whole > 0 else "less long"
        yield (
            f"the same batches took {percent(abs(whole))} {how} than is predicted for them "
            f"({', '.join(parts)}), which latencies near capacity feel several times over"
        )

    def _longer(self, rows: NDArray[np.bool_]) -> float | None:
        predicted = float(self.predicted[rows].sum())
        return float(self.measured[rows].sum()) / predicted - 1 if predicted > 0 else None


def batches(server: Run, plans: Mapping[str, PoolPlan]) -> Batches:
    """The batches of a server's record.

    Args:
        server: the record.
        plans: of the deployment that predicts, by pool.
    """
    began = server.meta.get(BEGAN, np.nan)
    columns: list[tuple[NDArray[Any], ...]] = []
    for lane in server.lanes:
        cost = plans[server.instances[lane.instance].pool].cost
        host = host_time(cost)
        each = host.iteration + host.sequence * lane["sampled"]
        parts = cost.breakdown(lane.columns)[0].values()
        predicted = sum(parts, np.zeros(len(lane))) + lane["iterations"] * each
        columns.append((began + lane["start"], lane.seconds, predicted, kinds(lane.columns)))
    return Batches(*map(np.concatenate, zip(*columns, strict=True)))
