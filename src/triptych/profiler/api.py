"""`triptych profile`: measures a model on the device at hand and writes its profile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import IO, Any

from triptych import catalog
from triptych.engine.servable import cuda_may_be_here
from triptych.engine.threads import ENVIRONMENT
from triptych.profiler.assemble import Check, checks, profile, splits
from triptych.profiler.job import Job
from triptych.profiler.journal import Journal
from triptych.profiler.sizes import Limits
from triptych.profiles import Profile, write_profile
from triptych.spec.base import SpecError
from triptych.spec.model import Model

PRECISIONS = ("fp32", "bf16", "fp16")
DEVICES = ("cpu", "cuda")
_LIMITS = {
    "cpu": Limits(tokens=2048, batch=64, context=4096, kv=65536, patches=4096),
    "cuda": Limits(tokens=8192, batch=256, context=32768, kv=1 << 20, patches=16384),
}
_REPEATS = {"cpu": 10, "cuda": 20}
_QUICK_REPEATS = 6
"""Two a turn: the fewest from which a batch's own time can be told from the machine's speed."""
_CHECKS, _QUICK_CHECKS = 20, 8

_WRONG = 2
"""Exit code of a measuring process that cannot do what it was asked, and has said why."""
_BETWEEN_CALLS = 0.2
"""Seconds after which `progress` is called though nothing was said."""
_QUIET = {"kind": "quiet"}

Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Outcome:
    """What came of a run."""

    path: Path
    """The Parquet file."""
    profile: Profile
    checks: list[Check]
    finished: bool
    """False: it was interrupted, or out of time, and the same call goes on where it stopped."""


def run_profile(
    model: str,
    *,
    device: str = "cpu",
    tp: Sequence[int] = (1,),
    precision: str = "bf16",
    out: Path = Path("profile"),
    quick: bool = False,
    model_alone: bool = False,
    minutes: float | None = None,
    collectives: Sequence[int] | None = None,
    max_tokens: int | None = None,
    max_batch: int | None = None,
    max_context: int | None = None,
    max_patches: int | None = None,
    repeats: int | None = None,
    progress: Progress = lambda line: None,
) -> Outcome:
    """Measures a model's operators and writes `out/DEVICE-MODEL-PRECISION.parquet`.

    Finished measurements are kept beside it in a partial file until all are there: called again, it takes
    those that are missing.

    Args:
        model: of the catalogue, or a `config.json`; weights are random.
        device: `cpu` or `cuda`.
        tp: tensor parallelism whose shards are measured, on one device each.
        precision: of weights, KV and activations.
        out: folder.
        quick: a coarse grid of sizes.
        model_alone: nothing but what predicts the model on this device: no mixed batches to check the sum of
            operators, no copies, messages, collectives and making of text.
        minutes: after which nothing more is begun; None: as long as it takes.
        collectives: members of groups of processes whose collectives are measured; None: the degrees of `tp`
            above 1, on CUDA as far as there are GPUs.
        max_tokens: largest number of tokens of a batch.
        max_batch: most sequences that decode at once.
        max_context: longest context of a request.
        max_patches: most image patches of a batch.
        repeats: passes over each batch.
        progress: is told each line of the measuring process, and `{"kind": "quiet"}` a few times a second
            while there is none; what it raises ends the measuring.

    Raises:
        SpecError: an argument is wrong, or the model cannot be built or split so.
        KeyboardInterrupt: as usual, with what was finished kept in the partial file.
    """
    shape = catalog.model(model, field="--model")
    if device not in DEVICES:
        raise SpecError("--device", f"{device!r} is none of {', '.join(DEVICES)}")
    if device == "cuda" and not cuda_may_be_here():
        raise SpecError("--device", "there is no sign of a CUDA device or its driver here; use cpu")
    if precision not in PRECISIONS:
        raise SpecError("--precision", f"{precision!r} is none of {', '.join(PRECISIONS)}")
    _check_split(shape, tp)
    own = _LIMITS[device]
    job = Job(
        model=str(Path(model).resolve()) if Path(model).exists() else model,
        device=device,
        precision=precision,
        tensor=tuple(tp),
        limits=Limits(
            tokens=max_tokens or own.tokens,
            batch=max_batch or own.batch,
            context=max_context or own.context,
            kv=own.kv,
            patches=max_patches or own.patches,
        ),
        quick=quick,
        repeats=repeats or (_QUICK_REPEATS if quick else _REPEATS[device]),
        checks=0 if model_alone else _QUICK_CHECKS if quick else _CHECKS,
        model_alone=model_alone,
        collectives=None if collectives is None else tuple(collectives),
        seconds=None if minutes is None else minutes * 60,
    )
    name = "-".join((device, shape.name.lower().replace(" ", "-"), precision))
    journal = Journal(out / f".{name}.partial.jsonl", job)
    _run(replace(job, done=journal.done), journal, progress)
    finished = all(split.finished for split in splits(job, journal.lines))
    measured = profile(name, job, journal.lines)
    path = out / f"{name}.parquet"
    write_profile(measured, path)
    if finished:
        journal.path.unlink()
    return Outcome(path, measured, checks(job, journal.lines), finished)


def _check_split(model: Model, tp: Sequence[int]) -> None:
    """Refuses degrees that do not divide the heads.

    Raises:
        SpecError: as said.
    """
    if not tp or min(tp) < 1:
        raise SpecError("--tp", "give degrees of 1 or more, such as 1,2,4,8")
    heads = {"attention heads": model.text.heads}
    if model.vision is not None:
        heads["vision heads"] = model.vision.heads
    for degree in tp:
        for what, count in heads.items():
            if count % degree:
                raise SpecError("--tp", f"{model.name} has {count} {what}, which {degree} does not divide")


def _run(job: Job, journal: Journal, progress: Progress) -> None:
    """Runs the measuring process to its end."""
    with _process(job, journal.path.with_suffix(".log")) as lines:
        for line in lines:
            if line is not _QUIET:
                journal.add(line)
            progress(line)


@contextmanager
def _process(job: Job, log: Path) -> Iterator[Iterator[dict[str, Any]]]:
    """The lines of a measuring process, which is ended with the block.

    Args:
        job: what it does.
        log: file for what it says beside; stays if it ends of itself too early.
    """
    with log.open("w+b") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "triptych.profiler.measure"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=ENVIRONMENT | os.environ,
            start_new_session=True,  # Ctrl-C reaches this process alone, which ends the other
        )
    assert process.stdin is not None and process.stdout is not None
    crashed = False
    try:
        with suppress(BrokenPipeError):  # what it died of is in the log
            process.stdin.write(job.to_json() + "\n")
            process.stdin.close()
        yield _lines(process.stdout)
        if code := process.wait():
            crashed = code != _WRONG
            raise _ended(code, log)
    finally:
        process.kill()
        process.wait()
        if not crashed:
            log.unlink()


def _ended(code: int, log: Path) -> SpecError:
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = said[-1] if said else "it said nothing"
    if code == _WRONG:
        return SpecError("", last)
    return SpecError(
        "", f"measuring ended with code {code}: {last}; all it said is in {log}; the same command goes on"
    )


def _lines(stream: IO[str]) -> Iterator[dict[str, Any]]:
    """What a process says, line by line, and _QUIET while it does not."""
    said: SimpleQueue[str] = SimpleQueue()

    def listen() -> None:
        for line in stream:
            said.put(line)
        said.put("")

    Thread(target=listen, daemon=True).start()
    while True:
        try:
            line = said.get(timeout=_BETWEEN_CALLS)
        except Empty:
            yield _QUIET
            continue
        if not line:
            return
        yield json.loads(line)
