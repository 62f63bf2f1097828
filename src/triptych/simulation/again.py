"""A prediction made again with other batch times, for its interval: on several cores where it takes long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from triptych.plan import PoolPlan, plan_pools
from triptych.record.run import Bound
from triptych.simulation.beside import Beside, another_pays
from triptych.simulation.build import build
from triptych.simulation.interval import Figures, figures
from triptych.simulation.outcome import outcome
from triptych.simulation.simulator import Progress
from triptych.spec.deployment import Deployment
from triptych.workload import Requests

Slowness = Mapping[str, float]
"""By pool, how many times as long each batch takes."""


@dataclass(frozen=True)
class Case:
    """What was predicted, so that it can be predicted again, in another process as well."""

    deployment: Deployment
    """Whose paths are true from anywhere."""
    requests: Requests
    jump: bool
    slo: Sequence[Bound]
    meta: Mapping[str, Any]
    """Metadata of the first run."""
    horizon: float
    """Virtual seconds of the first run."""

    def figures(
        self, slowness: Slowness, plans: Sequence[PoolPlan] | None = None, progress: Progress | None = None
    ) -> Figures | None:
        """Runs it with other batch times; None if `progress` said stop.

        Args:
            slowness: the other times.
            plans: of the pools; None: they are looked up again.
            progress: as `simulate`.
        """
        plans = plan_pools(self.deployment) if plans is None else plans
        scaled = [replace(plan, cost=plan.cost.scaled(slowness[plan.name])) for plan in plans]
        simulator = build(self.deployment, scaled, self.requests, jump=self.jump)
        simulator.run(progress)
        if simulator.interrupted:
            return None
        run = outcome(simulator, scaled, self.requests, self.deployment, 0.0)
        return figures(replace(run, slo=self.slo, meta=self.meta))


def all_figures(
    case: Case,
    slownesses: Sequence[Slowness],
    plans: Sequence[PoolPlan],
    progress: Progress | None,
    expected: float,
) -> list[Figures] | None:
    """The figures for each slowness, whichever process has found them; None if `progress` said stop.

    Args:
        case: what is predicted.
        slownesses: the first is run here, the others beside it if that pays, or else after it.
        plans: of the pools.
        progress: as `simulate`.
        expected: seconds that each may take.
    """
    with ExitStack() as stack:
        others: list[Beside[Figures] | None] = [
            stack.enter_context(Beside(case.figures, slowness)) if another_pays(expected) else None
            for slowness in slownesses[1:]
        ]
        found = [case.figures(slownesses[0], plans, progress)]
        for slowness, other in zip(slownesses[1:], others, strict=True):
            if found[-1] is None:
                return None
            there = None if other is None else other.result(lambda: _goes_on(case, progress))
            if other is not None and other.stopped:
                return None
            found.append(case.figures(slowness, plans, progress) if there is None else there)
    known = [each for each in found if each is not None]
    return known if len(known) == len(found) else None


def _goes_on(case: Case, progress: Progress | None) -> bool:
    """Whether to wait on for another process: asks as a run that is about to end."""
    count = len(case.requests)
    return progress is None or progress(count, count, case.horizon)
