"""One run record of several workers that served one after the other."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic_ns

import numpy as np

from triptych.engine.clock import ticks
from triptych.engine.spool import Spooled, read_spool, spool_files
from triptych.engine.trace_files import TABLE, TEXT, TRACE
from triptych.plan import PoolPlan, with_defaults
from triptych.record import Run, write_run
from triptych.record.columns import REQUEST_COLUMNS, SPAN_COLUMNS, TRANSFER_COLUMNS
from triptych.record.logs import LaneLog, Spans, Transfers
from triptych.spec.deployment import Deployment

_TIMES = tuple(
    name for name, (kind, _) in REQUEST_COLUMNS.items() if kind == "float64" and name != "transfer_seconds"
)


def gather_record(
    record: Path,
    plan: PoolPlan,
    deployment: Deployment,
    *,
    interrupted: bool = False,
    ended: bool = True,
) -> None:
    """Writes the run folder anew, with what all workers did, if any request has come.

    Args:
        record: run folder.
        plan: of the pool that was served.
        deployment: as it was served.
        interrupted: whether the server did not end as it was told to.
        ended: whether the server has ended just now; else when the last thing happened that is recorded.

    Raises:
        OSError: it cannot be written.
        SpecError: likewise.
    """
    found = [spooled for file in spool_files(record) if (spooled := read_spool(file)) is not None]
    if any(len(spooled.requests) for spooled in found):
        found.sort(key=lambda spooled: spooled.zero)
        end = monotonic_ns() if ended else max(map(_last, found))
        run = join(found, plan, deployment, end=end, interrupted=interrupted)
        with _kept(record, (TRACE, TABLE, TEXT)):
            write_run(run, record)


def join(
    workers: Sequence[Spooled],
    plan: PoolPlan,
    deployment: Deployment,
    *,
    end: int,
    interrupted: bool = False,
) -> Run:
    """The run of all workers, as of one that was never replaced.

    A request that was under way when a worker died has a row for each worker that was at work on it: what
    came of it there, and then as a request with the tokens so far in its prompt.

    Args:
        workers: in the order in which they served; at least one.
        plan: of the pool.
        deployment: as it was served.
        end: reading of the monotonic clock, in nanoseconds.
        interrupted: whether the run did not end as it was told to.
    """
    requests, batches, spans = [], [], []
    count = steps = 0
    for worker in workers:
        later = ticks(worker.zero - workers[0].zero)
        rows, ran, stays = worker.requests.copy(), worker.batches.copy(), worker.spans.copy()
        for name in _TIMES:
            rows[name] += later
        ran["start"] += later
        stays["token_time"] += later
        stays["request"] += count
        stays["join"] += steps
        stays["leave"] += steps
        count += len(rows)
        steps += worker.steps
        requests.append(rows)
        batches.append(ran)
        spans.append(stays)
    table, log, stay = np.concatenate(requests), np.concatenate(batches), np.concatenate(spans)
    table["id"] = np.arange(count)
    columns = {name: log[name] for name in log.dtype.names or ()}
    columns["flops"], columns["bytes"] = plan.cost.work(columns)
    columns["cpu_seconds"] = np.concatenate([worker.cpu_seconds for worker in workers])
    stay = stay[np.argsort(stay["request"], kind="stable")]
    seconds = ticks(end - workers[0].zero)
    return Run(
        requests={name: np.ascontiguousarray(table[name]) for name in REQUEST_COLUMNS},
        lanes=[LaneLog(0, 0, columns)],
        spans=Spans({name: np.ascontiguousarray(stay[name]) for name in SPAN_COLUMNS}),
        transfers=Transfers({name: np.empty(0, kind) for name, (kind, _) in TRANSFER_COLUMNS.items()}),
        instances=[plan.describe(0)],
        horizon=seconds,
        deployment_yaml=with_defaults(deployment).to_yaml(),
        producer="serve",
        interrupted=interrupted,
        meta={**workers[0].meta, "wall_seconds": seconds, "worker_restarts": len(workers) - 1},
    )


def _last(worker: Spooled) -> int:
    """When the last thing happened that a worker recorded, by the monotonic clock in nanoseconds."""
    times = [worker.batches["start"] + worker.batches["first"], *(worker.requests[name] for name in _TIMES)]
    seconds = np.concatenate(times)
    return worker.zero + int(1e9 * seconds[np.isfinite(seconds)].max(initial=0.0))


@contextmanager
def _kept(record: Path, names: Sequence[str]) -> Iterator[None]:
    """Carries files of a run folder over into the one that takes its place."""
    with TemporaryDirectory(dir=record.absolute().parent, prefix=".") as aside:
        for name in names:
            if (record / name).is_file():
                shutil.move(record / name, aside)
        yield
        for file in Path(aside).iterdir():
            shutil.move(file, record)
