"""The deployment: which phases run where, with which parallelism, scheduler, router and links."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from triptych.spec.base import Spec, did_you_mean
from triptych.spec.device import Precision
from triptych.spec.units import Bytes, BytesPerSecond, Seconds

PhaseName = Literal["encode", "prefill", "decode"]
PHASES: tuple[PhaseName, ...] = ("encode", "prefill", "decode")
SchedulerName = Literal["static", "orca", "vllm", "sarathi", "unified", "encode"]
EstimatorName = Literal["interpolation", "roofline", "forest", "boosting", "best"]
RouterName = Literal["random", "round-robin", "least-requests", "least-tokens", "prefix-affinity"]


class Parallelism(Spec):
    """How one instance is laid over devices: it takes tensor x pipeline x data of them."""

    tensor: PositiveInt = 1
    """Shards of every matrix (and of the attention heads)."""
    pipeline: PositiveInt = 1
    """Consecutive groups of layers."""
    data: PositiveInt = 1
    """Ranks with their own requests and KV cache that share the experts of a mixture-of-experts model."""
    expert: PositiveInt = 1
    """Groups that the experts are dealt to; the others shard every expert."""

    @property
    def devices(self) -> int:
        """Devices of one instance."""
        return self.tensor * self.pipeline * self.data


class Precisions(Spec):
    """Number formats."""

    weights: Precision = "bf16"
    kv: Precision = "bf16"
    compute: Precision = "bf16"
    """Operands of matrix products."""


class SchedulerSpec(Spec):
    """A scheduling policy and its knobs; a knob that the policy does not have is an error."""

    policy: SchedulerName
    max_batch: PositiveInt = 256
    """Requests that run at once."""
    max_tokens: PositiveInt | None = None
    """Tokens of one iteration: the chunk of sarathi (default 512), `max_num_batched_tokens` of vllm
    and unified (8192)."""
    max_patches: PositiveInt | None = None
    """Image patches that one iteration encodes (65,536); one image is always let through."""
    watermark: float | None = Field(default=None, ge=0, lt=1)
    """Share of KV blocks kept free when a request is admitted (vllm and sarathi: 0.01)."""
    lookahead: bool = False
    """Whether the next batch is formed while one runs, which hides the host's time: a request that comes is
    then seen a batch later (asynchronous scheduling, on by default from vLLM 0.14)."""

    @model_validator(mode="after")
    def _knobs_of_policy(self) -> Self:
        if self.max_tokens is not None and self.policy not in ("vllm", "sarathi", "unified"):
            raise ValueError(f"the {self.policy} scheduler has no max_tokens; remove it")
        if self.watermark is not None and self.policy not in ("vllm", "sarathi"):
            raise ValueError(f"the {self.policy} scheduler has no watermark; remove it")
        return self


class Pool(Spec):
    """Equal instances that run the same phases."""

    phases: tuple[PhaseName, ...]
    device: str
    """A name of the device catalogue, or a YAML file."""
    instances: int = Field(default=1, gt=0, le=100_000)
    node: str | None = None
    """A name of the node catalogue, or a YAML file; None: all devices are connected by `Device.link`."""
    parallel: Parallelism = Parallelism()
    precision: Precisions = Precisions()
    scheduler: SchedulerSpec
    block_size: PositiveInt = 16
    """Tokens in one KV block."""
    kv_blocks: PositiveInt | None = None
    """KV blocks of a rank, or of a pipeline's lane where those do not share (`unified` does), where they are
    known; otherwise what memory leaves."""
    memory_fraction: float = Field(default=0.9, gt=0, le=1)
    """Share of device memory for weights, activations, KV and embeddings."""
    prefix_cache: bool = False
    embedding_cache: Bytes | None = None
    """Memory for image embeddings per instance (4 GB, or a tenth of the device if that is less)."""
    profile: tuple[str, ...] = ()
    """Measured runtimes of its operators, by name (`triptych profile list`) or file: one, or a list of which
    the first that has an operator counts. None: the roofline of the device."""
    estimator: EstimatorName | None = None
    """How operators are known at sizes that were not measured; None: by interpolation or a fitted roofline,
    whichever does better at held-out sizes; best: of all four, which takes minutes once."""
    dollars_per_hour: float | None = Field(default=None, ge=0)
    """Of one device, where it differs from the catalogue."""

    @field_validator("profile", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("phases", mode="before")
    @classmethod
    def _known_phases(cls, value: object) -> object:
        if not isinstance(value, (list, tuple)) or not value:
            raise ValueError("list the phases the pool runs: encode, prefill, decode")
        for phase in value:
            if phase not in PHASES:
                mend = did_you_mean(phase, PHASES) or "use encode, prefill or decode"
                raise ValueError(f"{phase!r} is no phase; {mend}")
        if len(set(value)) < len(value):
            raise ValueError("a phase is listed twice; remove one")
        return tuple(phase for phase in PHASES if phase in value)

    @model_validator(mode="after")
    def _no_setting_is_idle(self) -> Self:
        """Refuses what the phases of the pool make no use of, instead of leaving it without effect."""
        idle = {
            "prefix_cache": (self.prefix_cache, ("prefill",)),
            "embedding_cache": (self.embedding_cache, ("encode", "prefill")),
            "kv_blocks": (self.kv_blocks, ("prefill", "decode")),
            "scheduler.max_patches": (self.scheduler.max_patches, ("encode",)),
        }
        for name, (given, users) in idle.items():
            if given and not set(users) & set(self.phases):
                raise ValueError(f"{name}: a pool without {' and '.join(users)} has no use for it; remove it")
        return self

    @model_validator(mode="after")
    def _stages_look_no_further(self) -> Self:
        if self.scheduler.lookahead and self.parallel.pipeline > 1:
            raise ValueError("scheduler.lookahead: pipeline stages keep batches under way anyway; remove it")
        return self

    @model_validator(mode="after")
    def _scheduler_fits_phases(self) -> Self:
        encode_only = self.phases == ("encode",)
        if (self.scheduler.policy == "encode") != encode_only:
            mend = "use scheduler.policy: encode" if encode_only else "use another scheduler.policy"
            raise ValueError(
                f"phases [{', '.join(self.phases)}] cannot run under the "
                f"{self.scheduler.policy} scheduler; {mend}"
            )
        return self


class Routers(Spec):
    """Who picks the instance, for each phase."""

    encode: RouterName = "least-requests"
    prefill: RouterName = "least-requests"
    decode: RouterName = "least-requests"


class PoolLink(Spec):
    """The way from one pool's instances to another's; default is the network of their nodes."""

    source: str = Field(alias="from")
    target: str = Field(alias="to")
    bandwidth: BytesPerSecond
    """Per device, one direction, as reached; an instance's port is as wide as those of all its devices."""
    latency: Seconds = 0.0


class Deployment(Spec):
    """One model over pools that together run all its phases."""

    model: str
    """A name of the model catalogue, a `config.json`, or a folder that holds one."""
    pools: dict[str, Pool] = Field(min_length=1)
    routers: Routers = Routers()
    links: tuple[PoolLink, ...] = ()
    calibration: str | None = None
    """A file that `triptych calibrate` wrote: host time, front-end delay, efficiencies of a measured run."""
    seed: int = Field(default=0, ge=0)
    """Of the random router."""

    @model_validator(mode="after")
    def _links_join_pools(self) -> Self:
        seen: set[tuple[str, str]] = set()
        for link in self.links:
            for name in (link.source, link.target):
                if name not in self.pools:
                    mend = did_you_mean(name, self.pools) or f"use one of {', '.join(self.pools)}"
                    raise ValueError(f"links: {name!r} is no pool; {mend}")
            if (link.source, link.target) in seen:
                raise ValueError(f"links: {link.source} -> {link.target} is given twice; remove one")
            seen.add((link.source, link.target))
        return self

    @model_validator(mode="after")
    def _text_phases_run(self) -> Self:
        run = {phase for pool in self.pools.values() for phase in pool.phases}
        for phase in ("prefill", "decode"):
            if phase not in run:
                raise ValueError(f"pools: none runs {phase}; add {phase} to the phases of one")
        return self
