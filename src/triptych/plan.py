"""What a deployment comes to: each pool with the model, device and memory that its names stand for.

The simulator and the engine both start here, so that what is predicted and what is served have the same
schedulers with the same memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from triptych import catalog
from triptych.cost import IterationCost, MemoryPlan, embedding_transfer_bytes, peak_flops, plan_memory
from triptych.cost.memory import token_budget
from triptych.cost.roofline import OperatorTimes
from triptych.policy import SCHEDULERS, Batch, EmbeddingCache, Image, KVCache, Phase, Request, Scheduler
from triptych.policy.batch import Chunk
from triptych.policy.request import DECODE, ENCODE, PREFILL
from triptych.record import InstanceInfo
from triptych.spec.base import SpecError
from triptych.spec.calibration import Calibration
from triptych.spec.deployment import Deployment, Pool
from triptych.spec.device import Device, Node
from triptych.spec.model import Model
from triptych.spec.paths import everywhere, existing, not_found

RELATIVES = "relatives"
"""As a pool's profile: efficiencies of what was measured on devices of the same architecture."""
_PHASES = {"encode": ENCODE, "prefill": PREFILL, "decode": DECODE}
EMBEDDING_BLOCK = 16
"""Tokens in one block of image embeddings."""


def with_defaults(deployment: Deployment) -> Deployment:
    """The deployment with what its policies take for the knobs of schedulers that are not declared."""

    def filled(pool: Pool) -> Pool:
        knobs, policy = pool.scheduler, SCHEDULERS[pool.scheduler.policy]
        patches = policy.default_patches if "encode" in pool.phases else 0
        taken: dict[str, float] = {"max_tokens": policy.default_tokens, "max_patches": patches}
        taken["watermark"] = policy.default_watermark  # 0, as of the others: the policy has no such knob
        missing = {name: value for name, value in taken.items() if value and getattr(knobs, name) is None}
        return pool.model_copy(update={"scheduler": knobs.model_copy(update=missing)})

    return deployment.model_copy(
        update={"pools": {name: filled(pool) for name, pool in deployment.pools.items()}}
    )


@dataclass(frozen=True)
class PoolPlan:
    """A pool with all that its names stand for."""

    name: str
    pool: Pool
    model: Model
    device: Device
    node: Node | None
    memory: MemoryPlan
    cost: IterationCost
    calibration: Calibration | None = None

    @property
    def phases(self) -> list[Phase]:
        """What its instances run."""
        return [_PHASES[name] for name in self.pool.phases]

    @property
    def lanes(self) -> int:
        """Schedulers of one instance: data ranks, or pipeline stages."""
        return self.pool.parallel.pipeline * self.pool.parallel.data

    def schedulers(self) -> list[Scheduler]:
        """Those of the lanes of an instance."""
        lanes = [self.scheduler() for _ in range(self.lanes)]
        if lanes[0].shares and self.pool.parallel.pipeline > 1:
            for lane in lanes[1:]:
                lane.share(lanes[0])
        return lanes

    def scheduler(self) -> Scheduler:
        """A scheduler with memory of its own."""
        knobs, pool = self.pool.scheduler, self.pool
        kv = KVCache(self.memory.kv_blocks, pool.block_size, prefix_cache=pool.prefix_cache)
        return SCHEDULERS[knobs.policy](
            kv,
            self._embeddings(),
            phases=self.phases,
            max_batch=knobs.max_batch,
            max_tokens=knobs.max_tokens,
            max_patches=knobs.max_patches,
            watermark=knobs.watermark,
        )

    def _embeddings(self) -> EmbeddingCache | None:
        if self.memory.embedding_bytes == 0:
            return None
        block_bytes = embedding_transfer_bytes(self.model, self.pool, EMBEDDING_BLOCK)
        return EmbeddingCache(int(self.memory.embedding_bytes // block_bytes), EMBEDDING_BLOCK)

    def longest_iteration(self, context: int) -> float:
        """Seconds that the largest batch takes, as predicted, with images if the pool encodes any.

        Args:
            context: tokens of the longest request.
        """
        spec = self.pool.scheduler
        tokens = min(token_budget(spec) or context, context)
        request = Request(0, context, 1)
        kv = self.memory.kv_blocks * self.pool.block_size
        patches = spec.max_patches or Scheduler.default_patches
        encodes = "encode" in self.pool.phases and self.model.vision is not None
        images = [(request, Image(patches, 1, 0))] if encodes else []
        chunk = Chunk(request, tokens, context - tokens, True)
        batch = Batch([chunk], spec.max_batch, kv, images=images, longest_kv=min(context, kv))
        return self.cost.run(batch)[0]

    def describe(self, number: int) -> InstanceInfo:
        """What the run record says of an instance of this pool."""
        device, pool = self.device, self.pool
        devices = pool.parallel.devices
        price = device.dollars_per_hour if pool.dollars_per_hour is None else pool.dollars_per_hour
        return InstanceInfo(
            id=number,
            pool=self.name,
            phases=pool.phases,
            device=device.name,
            devices=devices,
            lanes=self.lanes,
            kv_blocks=self.memory.kv_blocks,
            block_size=pool.block_size,
            peak_flops=peak_flops(device, pool.precision.compute) * devices,
            bandwidth=device.bandwidth * devices,
            memory_bytes=device.memory * devices,
            weights_bytes=self.memory.weights_bytes * devices,
            reserved_bytes=(self.memory.activation_bytes + self.memory.embedding_bytes) * devices,
            idle_watts=device.idle_watts * devices,
            peak_watts=device.peak_watts * devices,
            dollars_per_hour=price * devices,
            kv_shared=SCHEDULERS[pool.scheduler.policy].shares and pool.parallel.pipeline > 1,
            kv_block_bytes=self.memory.kv_bytes_per_block * pool.parallel.tensor * pool.parallel.pipeline,
        )


def plan_pools(deployment: Deployment, file: str | Path | None = None) -> list[PoolPlan]:
    """Looks up what a deployment names and checks that every pool can run its phases of the model.

    Raises:
        SpecError: a name is unknown, the parallelism is not legal, or the model does not fit.
    """
    model = catalog.model(deployment.model, field="model", file=file)
    calibration = _calibration(deployment, file)
    plans = []
    for name, pool in deployment.pools.items():
        field = f"pools.{name}"
        device = catalog.device(pool.device, field=f"{field}.device", file=file)
        node = None if pool.node is None else catalog.node(pool.node, field=f"{field}.node", file=file)
        _check_node(device, node, field, file)
        if RELATIVES in pool.profile:
            device = _related(device, pool, field, file)
            pool = pool.model_copy(update={"profile": ()})
        _check_budget(pool, field, file)
        memory = plan_memory(model, device, pool, field=field, file=file)
        times = _measured(model, device, node, pool, field, file) if pool.profile else None
        cost = IterationCost(
            model, device, node, pool, times=times, calibration=calibration, field=field, file=file
        )
        plans.append(PoolPlan(name, pool, model, device, node, memory, cost, calibration))
    _check_prefix_caches(deployment, file)
    _check_kv_precision(deployment, file)
    return plans


def rooted(deployment: Deployment, file: str | Path | None = None) -> Deployment:
    """With the files that it names under paths that are true from anywhere, as copies of it need them.

    Args:
        deployment: as it was declared.
        file: where; None: in no file.
    """

    def path(name: str, found: Path | None) -> str:
        return name if found is None else everywhere(found)

    pools = {}
    for key, pool in deployment.pools.items():
        update: dict[str, object] = {"device": path(pool.device, catalog.device_path(pool.device, file))}
        if pool.node is not None:
            update["node"] = path(pool.node, catalog.node_path(pool.node, file))
        if pool.profile and RELATIVES not in pool.profile:
            from triptych.profiles.library import path_of  # as in `_measured`

            update["profile"] = tuple(path(name, path_of(name, file)) for name in pool.profile)
        pools[key] = pool.model_copy(update=update)
    shape = deployment.model.removeprefix(catalog.RANDOM)
    prefix = deployment.model.removesuffix(shape)
    model = prefix + path(shape, catalog.model_path(shape, file))
    calibration = deployment.calibration
    if calibration is not None:
        calibration = path(calibration, existing(calibration, file))
    return deployment.model_copy(update={"pools": pools, "model": model, "calibration": calibration})


def profile_names(plans: Iterable[PoolPlan]) -> tuple[str, ...]:
    """Of the profiles that pools name, wherever they lie."""
    named = {name for plan in plans for name in plan.pool.profile}
    return tuple(sorted({Path(name).name.removesuffix(".parquet") for name in named}))


def check_calibration(plans: Sequence[PoolPlan], file: str | Path | None = None) -> None:
    """Sees to it that a calibration is relative to what predictions rest on.

    Raises:
        SpecError: it was fitted on other profiles.
    """
    calibration = plans[0].calibration
    if calibration is None or calibration.profiles is None:
        return
    here = profile_names(plans)
    if here != calibration.profiles:
        fitted, named = (", ".join(names) or "data sheets" for names in (calibration.profiles, here))
        problem = f"is relative to {fitted}, and the pools rest on {named}"
        raise SpecError("calibration", f"{problem}; name the same profile, or calibrate again", file=file)


def _calibration(deployment: Deployment, file: str | Path | None) -> Calibration | None:
    if deployment.calibration is None:
        return None
    path = existing(deployment.calibration, file)
    if path is None:
        problem = f"{deployment.calibration}: {not_found(deployment.calibration, file)}"
        raise SpecError("calibration", problem, file=file)
    return Calibration.load(path)


def _related(device: Device, pool: Pool, field: str, file: str | Path | None) -> Device:
    from triptych.cost.relatives import with_efficiency_of_relatives
    from triptych.profiles.library import profiles

    if len(pool.profile) > 1:
        problem = f"{RELATIVES} stands for itself alone; remove the others, or it"
        raise SpecError(f"{field}.profile", problem, file=file)
    return with_efficiency_of_relatives(device, profiles(), field=f"{field}.profile", file=file)


def _measured(
    model: Model, device: Device, node: Node | None, pool: Pool, field: str, file: str | Path | None
) -> OperatorTimes:
    from triptych.cost.lookup import measured_times  # brings all readers along: only where it is needed

    return measured_times(model, device, node, pool, field=field, file=file)


def _check_node(device: Device, node: Node | None, field: str, file: str | Path | None) -> None:
    """A device of the catalogue goes into nodes that are built with it, one of the user's own into any."""
    if node is None or not node.holds or device.name in node.holds:
        return
    if device.name not in catalog.device_names():
        return
    others = [name for name in catalog.node_names() if device.name in catalog.node(name).holds]
    problem = f"{node.name} holds {' or '.join(node.holds)}, not {device.name}"
    mend = f"use {', '.join(others)} or remove it" if others else "remove it"
    raise SpecError(f"{field}.node", f"{problem}; {mend}", file=file)


def _check_budget(pool: Pool, field: str, file: str | Path | None) -> None:
    """Decodes alone must fit the token budget of the policies that count them in it."""
    knobs = pool.scheduler
    budget = token_budget(knobs)
    if knobs.policy in ("sarathi", "unified") and budget < knobs.max_batch:
        problem = (
            f"{budget} is less than max_batch {knobs.max_batch}, one token each; raise it to that at least"
        )
        raise SpecError(f"{field}.scheduler.max_tokens", problem, file=file)


def _check_prefix_caches(deployment: Deployment, file: str | Path | None) -> None:
    sizes: dict[int, str] = {}
    for name, pool in deployment.pools.items():
        if pool.prefix_cache:
            sizes.setdefault(pool.block_size, name)
    if len(sizes) > 1:
        one, other = list(sizes.values())[:2]
        problem = f"pools {one} and {other} have prefix caches of different block_size; give them the same"
        raise SpecError("pools", problem, file=file)


def _check_kv_precision(deployment: Deployment, file: str | Path | None) -> None:
    """KV goes from pool to pool as it is: nothing on the way would convert it."""
    formats: dict[str, str] = {}
    for name, pool in deployment.pools.items():
        if pool.phases != ("encode",):
            formats.setdefault(pool.precision.kv, name)
    if len(formats) > 1:
        (one, first), (other, second) = list(formats.items())[:2]
        problem = f"pools {first} and {second} keep KV in {one} and {other}; give them the same precision.kv"
        raise SpecError("pools", problem, file=file)
