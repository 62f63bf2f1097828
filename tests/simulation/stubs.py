"""Simulators put together by hand, with costs that can be worked out in the head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from triptych import catalog
from triptych.policy import ROUTERS, SCHEDULERS, Batch, KVCache, Phase
from triptych.record.columns import BATCH_ROW
from triptych.simulation.lane import Cost, Lane, Lockstep
from triptych.simulation.pipeline import PipelineLane, SharedLane
from triptych.simulation.simulator import Instance, Simulator, Way
from triptych.simulation.traffic import Traffic
from triptych.workload import Requests

FOREVER = 1 << 60
TEXT = (Phase.PREFILL, Phase.DECODE)
_TEXT_MODEL = catalog.model("opt-125m")

Line = tuple[float, float, int]
"""(seconds of the first iteration, growth, iterations for which that holds)."""


class Takes:
    """A cost that a function of the batch gives: seconds, or a whole line.

    Args:
        seconds: of an iteration, or a line of them.
        stages: of each pipeline stage.
    """

    def __init__(
        self,
        seconds: Callable[[Batch], float | Line] = lambda batch: 1.0,
        stages: Callable[[Batch], list[float]] | None = None,
    ) -> None:
        self.seconds = seconds
        self._stages = stages

    def run(self, batch: Batch) -> Line:
        line = self.seconds(batch)
        return line if isinstance(line, tuple) else (line, 0.0, FOREVER)

    def stages(self, batch: Batch) -> list[float]:
        return self._stages(batch) if self._stages else [self.run(batch)[0]]

    def lockstep(self, batches: Sequence[Batch | None]) -> Line:
        """The slowest sets the pace; only lines that do not grow are compared."""
        lines = [self.run(batch) for batch in batches if batch is not None]
        return max(first for first, _, _ in lines), 0.0, min(valid for _, _, valid in lines)


def requests(
    arrival: Sequence[float] | npt.NDArray[np.float64],
    prompt: int | Sequence[int] | npt.NDArray[np.int64] = 1,
    output: int | Sequence[int] | npt.NDArray[np.int64] = 1,
    patience: Sequence[float] | None = None,
) -> Requests:
    """Text requests; one number for all, or one each."""
    times = np.asarray(arrival, np.float64)
    plain = Requests.plain(times, *(np.full(len(times), tokens, np.int64) for tokens in (prompt, output)))
    return plain if patience is None else replace(plain, patience=np.array(patience, np.float64))


def closed_loop(concurrency: int, prompt: Sequence[int], output: Sequence[int]) -> Requests:
    """Text requests of so many users at a time."""
    return replace(requests([0.0] * len(prompt), prompt, output), concurrency=concurrency)


def simulator(
    traffic: Requests,
    cost: Cost,
    *,
    pools: Sequence[tuple[Phase, ...]] = (TEXT,),
    instances: int = 1,
    router: str = "round-robin",
    router_seed: int = 0,
    stages: int = 1,
    ranks: int = 1,
    way: Way | None = None,
    policy: str = "orca",
    blocks: int = 1 << 40,
    block_size: int = 16,
    prefix_cache: bool = False,
    kind: type[Simulator] = Simulator,
    jump: bool = True,
    lookahead: bool = False,
    delay: float = 0.0,
    **knobs: Any,
) -> Simulator:
    """A simulator of pools named by their number, `instances` each, all with the same policy and cost.

    Args:
        traffic: what comes.
        cost: of all instances.
        pools: the phases of each.
        instances: of each pool.
        router: of every phase.
        router_seed: of a router that draws lots.
        stages: of each instance's pipeline.
        ranks: of each instance, in step.
        way: between any two pools.
        policy: name of the scheduler.
        blocks: of KV memory, each lane.
        block_size: tokens.
        prefix_cache: of each lane.
        kind: class of the simulator.
        jump: as `Simulator`.
        lookahead: of every lane.
        delay: as `Simulator`.
        knobs: of the scheduler.
    """
    hashed = block_size if prefix_cache else None
    made = kind(Traffic(traffic, _TEXT_MODEL, hash_block_size=hashed), jump=jump, delay=delay)
    numbers = count()

    def instance(number: int, pool: int, phases: tuple[Phase, ...]) -> Instance:
        free_at = [0.0] * stages
        lanes: list[Lane] = []
        shared: list[SharedLane] = []
        for _ in range(stages * ranks):
            kv = KVCache(blocks, block_size, prefix_cache=prefix_cache)
            scheduler = SCHEDULERS[policy](kv, phases=phases, **knobs)
            place: dict[str, Any] = {"instance": number, "number": next(numbers)}
            if stages > 1 and scheduler.shares:
                if shared:
                    scheduler.share(shared[0].scheduler)
                lanes.append(SharedLane(made, scheduler, cost, free_at=free_at, lanes=shared, **place))
            elif stages > 1:
                lanes.append(PipelineLane(made, scheduler, cost, free_at=free_at, **place))
            else:
                lanes.append(Lane(made, scheduler, cost, **place, lookahead=lookahead))
        if ranks > 1:
            Lockstep(made, lanes, cost)
        return Instance(number, str(pool), lanes)

    for pool, phases in enumerate(pools):
        first = len(made.instances)
        made.add_pool([instance(first + index, pool, phases) for index in range(instances)], phases)
    for phase in Phase:
        if len(made.serving[phase]) > 1:
            made.routers[phase] = ROUTERS[router](len(made.serving[phase]), seed=router_seed)
    if way is not None:
        names = {instance.pool for instance in made.instances}
        made.ways = {(source, target): way for source in names for target in names}
    return made


def batches(made: Simulator, lane: int = 0) -> npt.NDArray[np.void]:
    """The log of a lane, by its number over the whole run."""
    lanes = [lane for instance in made.instances for lane in instance.lanes]
    return np.frombuffer(bytes(lanes[lane].journal.rows), BATCH_ROW)


def starts_and_iterations(made: Simulator, lane: int = 0) -> list[tuple[float, int]]:
    """When each batch of a lane began, and how many times it was run."""
    log = batches(made, lane)
    return list(zip(log["start"].tolist(), log["iterations"].tolist(), strict=True))
