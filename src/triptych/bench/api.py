"""`bench`: a workload and a server in, a run record out."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import TypeVar

import numpy as np

from triptych.bench.ahead import Ahead
from triptych.bench.answer import Answer
from triptych.bench.assemble import observations, request_columns, token_spans
from triptych.bench.bodies import PATHS, Bodies, Form
from triptych.bench.client import Client
from triptych.bench.drive import drive
from triptych.bench.probe import probe
from triptych.bench.server import Server
from triptych.record import Run
from triptych.record.held import held_back
from triptych.spec.base import SpecError
from triptych.spec.deployment import Deployment
from triptych.spec.workload import WorkloadSpec
from triptych.version import __version__
from triptych.workload import Requests, generate

_T = TypeVar("_T")
Progress = Callable[[int, int, float], bool]
"""Called with (requests that have ended, requests in all, seconds since the begin); False ends the run."""

_SECONDS_BETWEEN_PROGRESS = 0.1
_WARMUP_SEED = 0x5EED
"""Added to the seed for contents that the run itself does not have."""
_WARMUP_CONCURRENCY = 8


def bench(
    workload: WorkloadSpec | str | Path,
    server: Server | str,
    *,
    overrides: Sequence[str] = (),
    warmup: int = 0,
    progress: Progress | None = None,
) -> Run:
    """Measures what a server does under a workload.

    Args:
        workload: the declaration, or the YAML file that holds it.
        server: any that has the OpenAI API, or its URL.
        overrides: `path.to.field=value` set on the workload, where it is read from a file.
        warmup: requests of the workload's lengths that are sent before, and not counted.
        progress: called ten times a second; if it returns False the run is cut short and what is finished is
            kept.

    Returns:
        The run record; `triptych.summarise` computes the metrics from it. Phases are not seen from outside:
        their columns are NaN, and there are no instances.

    Raises:
        SpecError: something declared is wrong, or the server cannot be reached or refuses to serve.

    Example:
        >>> from triptych.bench import bench
        >>> run = bench("workload.yaml", "http://127.0.0.1:8000/v1")  # doctest: +SKIP
    """
    file = workload if isinstance(workload, (str, Path)) else None
    if file is None and overrides:
        problem = f"{overrides[0]}: overrides change files that are read; change the object itself instead"
        raise SpecError("overrides", problem)
    if warmup < 0:
        raise SpecError("--warmup", f"must be 0 or more, not {warmup}")
    workload = workload.rooted() if isinstance(workload, WorkloadSpec) else load_workload(workload, overrides)
    if isinstance(server, str):
        server = Server(server)
    requests = generate(workload, file=file)
    _allow_connections()
    return asyncio.run(_bench(workload, requests, server, warmup, progress))


def load_workload(file: str | Path, overrides: Sequence[str]) -> WorkloadSpec:
    """Reads a workload.

    Args:
        file: YAML.
        overrides: as of `bench`.

    Raises:
        SpecError: it is wrong, or an override is of the deployment, which the server knows alone.
    """
    for text in overrides:
        field = text.partition("=")[0].partition(".")[0].strip()
        if field in Deployment.model_fields and field not in WorkloadSpec.model_fields:
            mend = "choose among those that are served with --model" if field == "model" else "set it there"
            problem = f"{field} is of the deployment, which `triptych serve` is given; {mend}"
            raise SpecError(f"--set {text}", problem)
    return WorkloadSpec.load(file, [text.removeprefix("workload.") for text in overrides])


async def _bench(
    workload: WorkloadSpec, requests: Requests, server: Server, warmup: int, progress: Progress | None
) -> Run:
    def go_on(ended: int = 0, seconds: float = 0.0) -> bool:
        return progress is None or progress(ended, len(requests), seconds)

    async with Client(server) as client:
        preparing = asyncio.create_task(_prepare(client, server, requests, warmup, workload.seed))
        if not await _unless_stopped(preparing, go_on):
            raise SpecError("", "interrupted before a request was sent")
        form = preparing.result()
        answers = [Answer() for _ in range(len(requests))]
        done = 0

        def ended() -> None:
            nonlocal done
            done += 1

        async with Ahead(Bodies(requests, form, workload.seed)) as ahead:
            await ahead.fill()
            cpu, begin, began_at = time.process_time(), monotonic(), time.time()
            driving = asyncio.create_task(
                drive(client, PATHS[form.api], requests, ahead, answers, begin, ended)
            )
            whole = await _unless_stopped(driving, lambda: go_on(done, monotonic() - begin))
            seconds, cpu_seconds = monotonic() - begin, time.process_time() - cpu
    columns = request_columns(requests, answers, begin, form)
    ends = columns["end"][~np.isnan(columns["end"])]
    return Run(
        requests=columns,
        lanes=[],
        spans=token_spans(answers, begin),
        instances=[],
        horizon=float(ends.max()) if whole and len(ends) else seconds,
        workload_yaml=workload.to_yaml(),
        slo=[] if workload.slo is None else workload.slo.bounds(),
        producer="bench",
        interrupted=not whole,
        meta={
            "version": __version__,
            "began_at": began_at,
            "wall_seconds": seconds,
            "seed": workload.seed,
            "declared_rate": workload.rate,
            "url": server.url,
            "model": form.model,
            "api": form.api,
            "warmup": warmup,
            "client_cpu_share": cpu_seconds / seconds if seconds > 0 else 0.0,
            **observations(columns, answers),
            **({"held_back": held_back(requests.arrival, columns["due"])} if requests.is_held_back else {}),
        },
    )


async def _prepare(client: Client, server: Server, requests: Requests, warmup: int, seed: int) -> Form:
    """All that comes before the clock starts."""
    form = await probe(client, server, bool(len(requests.image_content)))
    if warmup:
        await _warm_up(client, form, requests, warmup, seed + _WARMUP_SEED)
    return form


async def _unless_stopped(task: asyncio.Task[_T], go_on: Callable[[], bool]) -> bool:
    """Waits for a task as long as it may go on; returns whether it came to its end.

    Raises:
        Exception: what the task raised.
    """
    while not task.done():
        await asyncio.wait([task], timeout=_SECONDS_BETWEEN_PROGRESS)
        if not go_on() and task.cancel():
            await asyncio.wait([task])
            return False
    task.result()
    return True


async def _warm_up(client: Client, form: Form, requests: Requests, count: int, seed: int) -> None:
    """Sends requests like the first ones, with contents of their own, a few at a time.

    Raises:
        SpecError: all of them fail.
    """
    taken = requests.take(np.arange(count) % len(requests), np.zeros(count))
    bodies = Bodies(taken, form, seed)
    answers = [Answer() for _ in range(count)]
    room = asyncio.Semaphore(_WARMUP_CONCURRENCY)

    async def send(index: int) -> None:
        async with room:
            body = await asyncio.to_thread(bodies.make, index)
            await client.send(PATHS[form.api], body, answers[index], float("inf"), by_abort=False)

    await asyncio.gather(*map(send, range(count)))
    if all(answer.error for answer in answers):
        raise SpecError("--url", f"no warm-up request was served: {answers[0].error}; correct the workload")


def _allow_connections() -> None:
    """Lifts the limit on open files to what the system allows: every request under way holds one."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # some systems have a lower limit than they tell of
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
