"""From a deployment to an engine: the plan that the simulator follows, on a real model."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from triptych.cost.memory import token_budget
from triptych.engine.clock import Clock
from triptych.engine.core import Engine
from triptych.engine.graphs import CUDACapture
from triptych.engine.kernels.fit import Fitted, fit
from triptych.engine.loader import LoadedModel, load
from triptych.engine.log import Log
from triptych.engine.runner import Runner
from triptych.engine.servable import on_cpu, only_pool
from triptych.engine.spool import SpooledLog
from triptych.engine.threads import KERNEL_BYTES
from triptych.plan import PoolPlan, plan_pools, with_defaults
from triptych.record import Run, write_run
from triptych.record.assemble import lane_log, request_columns, spans, transfers
from triptych.spec.base import SpecError
from triptych.spec.deployment import Deployment, Pool
from triptych.version import __version__

logger = logging.getLogger(__name__)

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""One for each of `servable.FORMATS`."""


@dataclass
class Instance:
    """An engine, and what it takes to write down what it did."""

    engine: Engine
    plan: PoolPlan
    deployment: Deployment
    record: Path | None
    """Folder for the run record."""
    kernels: dict[str, str] = field(default_factory=dict)
    """What was chosen for the CPU (`kernels/choice.py`); empty on other devices."""

    def run(self) -> Run:
        """The record so far; those who are still under way are cut short.

        Raises:
            ValueError: none is kept.
        """
        log = self.engine.log
        if not isinstance(log, Log):
            raise ValueError("no record is kept: build it with a record folder")
        now = self.engine.clock.now()
        log.cut_short()
        recorder = log.recorder
        return Run(
            requests=request_columns(recorder, np.array(log.output_tokens, dtype=np.int64)),
            lanes=[lane_log(log.journal, 0, self.plan.cost, cpu_seconds=log.cpu_seconds)],
            spans=spans(recorder),
            transfers=transfers(recorder),
            instances=[self.plan.describe(0)],
            horizon=now,
            deployment_yaml=with_defaults(self.deployment).to_yaml(),
            producer="serve",
            meta={
                **_meta(self.engine.runner, self.engine.clock, self.kernels),
                "wall_seconds": now,
                "worker_restarts": 0,
            },
        )

    def close(self) -> None:
        """Ends the log; to be called once, at the end."""
        if isinstance(self.engine.log, SpooledLog):
            self.engine.log.close()

    def write_record(self) -> None:
        """Writes the run folder, if one was asked for and any request has come.

        Raises:
            OSError: it cannot be written.
            SpecError: likewise.
        """
        if self.record is None:
            return
        run = self.run()
        if len(run):
            write_run(run, self.record)
        else:
            logger.info("no request came, so there is no record")


def build(
    deployment: Deployment, file: str | Path | None = None, *, record: Path | None = None, seed: int = 0
) -> Instance:
    """Loads the model of a deployment and sets its one instance up.

    Args:
        deployment: a single pool that runs all phases of the model in one instance on one device.
        file: where it was declared, for errors.
        record: folder for a run record; None: none is kept.
        seed: of the weights of a `random:` model.

    Raises:
        SpecError: the deployment is wrong, or asks for what one process cannot serve.
    """
    name, pool = only_pool(deployment, file)
    plan = plan_pools(deployment, file)[0]
    device, dtype = _device(pool, plan, name, file)
    model = load(deployment.model, dtype=dtype, device=device, seed=seed, file=file)
    scheduler = plan.scheduler()
    kv = scheduler.kv
    _check_memory(plan, device, 1.0, f"pools.{name}", file)
    fitted = None
    if device == "cpu":
        fitted = _fitted(model, plan, pool, kv.blocks * kv.block_size)
        _check_memory(plan, device, fitted.kv.itemsize / dtype.itemsize, f"pools.{name}", file)
    runner = Runner(
        model,
        blocks=kv.blocks,
        block_size=kv.block_size,
        attention=None if fitted is None else fitted.attention,
        kv=None if fitted is None else fitted.kv,
    )
    runner.warm_up()
    if device == "cuda":
        runner.capture(min(pool.scheduler.max_batch, kv.blocks), CUDACapture())
    clock = Clock()
    kernels = {} if fitted is None else asdict(fitted.choice)
    log = None
    if record is not None:
        meta = _meta(runner, clock, kernels)
        log = SpooledLog(scheduler, record, clock.zero, meta, _as_json(deployment))
    engine = Engine(runner, scheduler, log=log, clock=clock)
    return Instance(engine, plan, deployment, record, kernels)


def _fitted(model: LoadedModel, plan: PoolPlan, pool: Pool, places: int) -> Fitted:
    """The model in the kernels and formats that are the fastest here and fit beside the planned KV."""
    scheduler = pool.scheduler
    return fit(
        model,
        batch=scheduler.max_batch,
        chunk=token_budget(scheduler) or model.max_context,
        places=places,
        reserved=plan.memory.embedding_bytes + plan.memory.activation_bytes + KERNEL_BYTES,
    )


def _as_json(deployment: Deployment) -> str:
    return json.dumps(deployment.model_dump(mode="json", exclude_none=True, by_alias=True))


def _meta(runner: Runner, clock: Clock, kernels: dict[str, str]) -> dict[str, Any]:
    """What the record says of the engine."""
    return {
        "version": __version__,
        "began_at": clock.began_at,
        "torch": torch.__version__,
        "attention": runner.attention.name,
        "kernels": kernels,
        "largest_graph": 0 if runner.graphs is None else runner.graphs.sizes[-1],
        "model_context": runner.model.max_context,
    }


def _device(pool: Pool, plan: PoolPlan, name: str, file: str | Path | None) -> tuple[str, torch.dtype]:
    """The device as torch names it, and the number format of weights, activations and KV."""
    dtype = _DTYPES[pool.precision.weights]
    if on_cpu(plan.device.name):
        return "cpu", dtype
    if not torch.cuda.is_available():
        problem = f"{plan.device.name} is not here: torch finds no CUDA device; serve with device: CPU"
        raise SpecError(f"pools.{name}.device", problem, file=file)
    return "cuda", dtype


def _check_memory(plan: PoolPlan, device: str, wider: float, path: str, file: str | Path | None) -> None:
    """KV fills up as requests come: better one line now than to be killed for memory under load.

    `wider` is how many times the planned bytes KV takes in the format that it is kept in.
    """
    wanted = plan.memory.kv_blocks * plan.memory.kv_bytes_per_block * wider + plan.memory.embedding_bytes
    free = _free_bytes(device) - (KERNEL_BYTES if device == "cpu" else 0)
    if wanted > free:
        problem = (
            f"KV and image embeddings take {wanted / 1e9:.1f} GB and {free / 1e9:.1f} GB are free here; "
            "set kv_blocks, embedding_cache or a smaller memory_fraction"
        )
        raise SpecError(path, problem, file=file)


def _free_bytes(device: str) -> int:
    """Memory that is left beside the weights."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    return psutil.virtual_memory().available
