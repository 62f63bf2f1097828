"""What lies in the memory of a device: weights, activations, image embeddings, and KV blocks in the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from triptych.cost.operators import Formats
from triptych.cost.parallelism import check_parallelism
from triptych.cost.placement import operators, runs, stage_parts
from triptych.policy import SCHEDULERS, Scheduler
from triptych.spec.base import SpecError
from triptych.spec.deployment import Parallelism, Pool, SchedulerSpec
from triptych.spec.device import Device
from triptych.spec.model import Model

_UNLIMITED = 8192
"""Tokens of an iteration for which activations are kept where the scheduler sets no limit."""
_EMBEDDING_CACHE = 4e9
_WIDEST = 64
"""Tensor and pipeline degrees that are searched for a fit."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Memory of the fullest device of an instance."""

    weights_bytes: float
    activation_bytes: float
    embedding_bytes: float
    """Cache of image embeddings; every device of an instance holds it."""
    kv_bytes_per_block: float
    kv_blocks: int
    """KV blocks of one lane (data rank or lane of a pipeline), or of all where the policy lets them share."""


def plan_memory(
    model: Model, device: Device, pool: Pool, *, field: str, file: str | Path | None = None
) -> MemoryPlan:
    """Lays out the memory of a pool's devices.

    A pool that only encodes holds the vision tower alone, one that does not encode the language model
    alone. KV blocks fill what `memory_fraction` leaves, unless `pool.kv_blocks` says how many there are.

    Raises:
        SpecError: the parallelism is not legal for the model; the model does not fit: then with the bytes
            that are missing and the parallelism that would fit; or the declared KV blocks do not.
    """
    check_parallelism(model, pool, field, file)
    _check_kv_blocks(model, device, pool, field, file)
    plan, missing = _layout(model, device, pool)
    if missing > 0:
        raise SpecError(field, _does_not_fit(model, device, pool, plan, missing), file=file)
    return plan


def weights_bytes(model: Model, pool: Pool, device: Device) -> float:
    """Bytes of weights on the fullest device of an instance: the most of any pipeline stage."""
    formats = Formats.of(pool.precision)
    of_device = operators(model, device, None, pool.parallel, formats)
    held = [op for op in of_device if (op.part == "vision") in _holds_vision(pool)]
    return max(
        sum(op.weights * runs(op, [parts]) for op in held)
        for parts in stage_parts(model, pool.parallel.pipeline)
    )


def kv_bytes_per_block(model: Model, pool: Pool) -> float:
    """Bytes of one KV block on the device that holds most layers; a device holds at least one KV head."""
    text, parallel = model.text, pool.parallel
    layers = math.ceil(text.layers / parallel.pipeline)
    heads = max(1, text.kv_heads // parallel.tensor)
    return 2 * layers * heads * text.head_dim * Formats.of(pool.precision).kv * pool.block_size


def activation_bytes(model: Model, pool: Pool) -> float:
    """Bytes of the activations alive at once in the widest spot of an iteration.

    Language model: for each token of the largest batch the residual stream and the layer's input, beside
    the wider of queries, keys and values and of the MLP's hidden values (up to top_k experts' of them);
    and 32-bit logits of the sequences sampled. Vision tower: the same for each patch. They are not alive
    together, so the larger counts.
    """
    tensor = pool.parallel.tensor
    element = Formats.of(pool.precision).activations
    largest = 0.0
    if pool.phases != ("encode",):
        text = model.text
        scheduler = pool.scheduler
        tokens = max(token_budget(scheduler) or _UNLIMITED, scheduler.max_batch)
        heads = (text.heads + 2 * text.kv_heads) * text.head_dim
        gates = 3 if text.gated_mlp else 2
        inner = gates * text.intermediate
        if text.experts is not None:
            routed = text.experts.top_k * text.experts.intermediate
            inner = max(inner, gates * (routed + text.experts.shared_intermediate))
        width = 2 * text.hidden + max(heads, inner) / tensor
        logits = 4.0 * scheduler.max_batch * text.vocab
        largest = tokens * width * element + logits
    if "encode" in pool.phases and model.vision is not None:
        vision = model.vision
        patches = pool.scheduler.max_patches or Scheduler.default_patches
        inner = (3 if vision.gated_mlp else 2) * vision.intermediate
        width = 2 * vision.hidden + max(3 * vision.hidden, inner) / tensor
        largest = max(largest, patches * width * element)
    return largest


def token_budget(scheduler: SchedulerSpec) -> int:
    """Tokens of one iteration: as declared, or else the policy's default; 0 where it sets no limit."""
    return scheduler.max_tokens or SCHEDULERS[scheduler.policy].default_tokens


def embedding_bytes(model: Model, device: Device, pool: Pool) -> float:
    """Bytes set aside for image embeddings: none where the pool neither encodes nor prefills images."""
    if model.vision is None or pool.phases == ("decode",):
        return 0.0
    return pool.embedding_cache or min(_EMBEDDING_CACHE, device.memory / 10)


def _holds_vision(pool: Pool) -> set[bool]:
    """Whether operators of the vision tower (True) and of the language model (False) are held."""
    held = {"encode" in pool.phases}
    return held | {False} if pool.phases != ("encode",) else held


def _layout(model: Model, device: Device, pool: Pool) -> tuple[MemoryPlan, float]:
    """The plan, and the bytes that are missing for a single KV block a lane."""
    weights = weights_bytes(model, pool, device)
    activations = activation_bytes(model, pool)
    embeddings = embedding_bytes(model, device, pool)
    stores_kv = pool.phases != ("encode",)
    block = kv_bytes_per_block(model, pool) if stores_kv else 0.0
    lanes = _lanes_on_a_device(pool)
    free = device.memory * pool.memory_fraction - weights - activations - embeddings
    if pool.kv_blocks is not None and stores_kv:
        plan = MemoryPlan(weights, activations, embeddings, block, pool.kv_blocks)
        return plan, weights - device.memory
    blocks = int(max(free, 0) // block) // lanes if stores_kv else 0
    plan = MemoryPlan(weights, activations, embeddings, block, blocks)
    return plan, block * lanes - free if blocks == 0 else 0.0


def _lanes_on_a_device(pool: Pool) -> int:
    """Lanes whose blocks lie on the same devices: those of a pipeline's stages, unless these share them."""
    return 1 if SCHEDULERS[pool.scheduler.policy].shares else pool.parallel.pipeline


def _check_kv_blocks(model: Model, device: Device, pool: Pool, field: str, file: str | Path | None) -> None:
    """Declared KV blocks lie in the memory that the device has beside the weights.

    They are known from an engine that runs, which may have been granted more than `memory_fraction` and may
    need less for activations than is reckoned here: only what cannot be is refused.
    """
    if pool.kv_blocks is None:
        return
    room = device.memory - weights_bytes(model, pool, device)
    block = kv_bytes_per_block(model, pool) * _lanes_on_a_device(pool)
    if room < 0 or pool.kv_blocks * block <= room:
        return
    problem = (
        f"{pool.kv_blocks:,} blocks take {pool.kv_blocks * block / 1e9:,.2f} GB on each {device.name}, "
        f"which has {room / 1e9:,.2f} GB beside the weights"
    )
    fix = f"declare at most {int(room // block):,}, or remove it for what memory leaves"
    raise SpecError(f"{field}.kv_blocks", f"{problem}; {fix}", file=file)


def _does_not_fit(model: Model, device: Device, pool: Pool, plan: MemoryPlan, missing: float) -> str:
    usable = device.memory * pool.memory_fraction
    return (
        f"{model.name} does not fit: {missing / 1e9:.2f} GB are missing on each {device.name} "
        f"(weights {plan.weights_bytes / 1e9:.2f}, activations {plan.activation_bytes / 1e9:.2f}, "
        f"embeddings {plan.embedding_bytes / 1e9:.2f} of {usable / 1e9:.2f} GB usable); "
        f"{_mend(model, device, pool)}"
    )


def _mend(model: Model, device: Device, pool: Pool) -> str:
    """The smallest tensor and the smallest pipeline degree, powers of two, with which the pool would fit."""
    fits = []
    for name in ("tensor", "pipeline"):
        degree = 2 * getattr(pool.parallel, name)
        while degree <= _WIDEST:
            if _would_fit(model, device, pool, {name: degree}):
                fits.append(f"{name}: {degree}")
                break
            degree *= 2
    if not fits:
        return "no tensor or pipeline degree fits; use a larger device or a narrower precision"
    return f"set parallel to {' or '.join(fits)}"


def _would_fit(model: Model, device: Device, pool: Pool, degree: dict[str, int]) -> bool:
    parallel = Parallelism(**{**pool.parallel.model_dump(), **degree})
    wider = pool.model_copy(update={"parallel": parallel})
    try:
        check_parallelism(model, wider, "", None)
    except SpecError:
        return False
    return _layout(model, device, wider)[1] <= 0
