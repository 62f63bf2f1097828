"""The measuring process: does a job, and says on standard output what it has measured as it goes.

    python -m triptych.profiler.measure < JOB

A process of its own, so that threads wait as they do in the engine's worker (which must be set before torch
is imported), and so that all memory is given back between models. It ends when nobody reads its output.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import torch

from triptych.profiler.about import clocks, device_name, versions
from triptych.profiler.copies import QUICK_SIZES, SIZES, measure_collectives, measure_copies
from triptych.profiler.front import measure_front_end
from triptych.profiler.host import Loop
from triptych.profiler.job import Job, case_to_plain, key
from triptych.profiler.rows import series_of
from triptych.profiler.sizes import AnyCase, Limits, cases
from triptych.profiler.statistics import Row
from triptych.profiler.subject import BLOCK, Subject, build
from triptych.profiler.text import measure_text
from triptych.profiler.turns import Turns, times_of
from triptych.spec.base import SpecError

_REQUESTS = 12
"""Requests of each kind, for the front end."""
_COPIES = 30
"""Repeats of each copy, message and collective, and of making text."""


class Output:
    """Lines for whoever started this process.

    Args:
        stream: where they are written.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def say(self, kind: str, **fields: Any) -> None:
        """One line."""
        self._stream.write(json.dumps({"kind": kind, **fields}) + "\n")
        self._stream.flush()


def run(job: Job, output: Output) -> None:
    """Measures all that is not done yet.

    Raises:
        SpecError: the model cannot be built, or there are not enough devices.
    """
    if job.device == "cuda" and not torch.cuda.is_available():
        raise SpecError("--device", "torch finds no CUDA device here; use cpu")
    _groups(job)
    output.say(
        "about", device=device_name(job.device), versions=versions(job.device), clocks=clocks(job.device)
    )
    began = time.monotonic()
    share = None if job.seconds is None else job.seconds / len(job.tensor)
    for index, tensor in enumerate(job.tensor):
        until = None if share is None else began + share * (index + 1)

        def goes_on(until: float | None = until) -> bool:
            return until is None or time.monotonic() < until

        _one(job, tensor, goes_on, output)
        gc.collect()
        if job.device == "cuda":
            torch.cuda.empty_cache()
    for name, rows in _once(job):
        output.say("rows", name=name, rows=rows)


def _one(job: Job, tensor: int, goes_on: Callable[[], bool], output: Output) -> None:
    """All measurements of one split of the model."""
    subject = build(
        job.model,
        device=job.device,
        precision=job.precision,
        tensor=tensor,
        kv_tokens=job.limits.kv,
        batch=job.limits.batch,
        chunk=job.limits.tokens,
    )
    limits = within(job.limits, subject)
    batches = cases(subject.spec, limits, quick=job.quick, checks=job.checks)
    done = {case.name: job.done.get(key(tensor, case.name), 0) for case in batches}
    times = {name: times_of(subject, name) for name in subject.operators}
    if "experts up" in times:
        times["experts"] = times["experts up"]
    output.say(
        "model",
        name=subject.spec.name,
        tensor=tensor,
        layers=subject.layers,
        all_layers=subject.spec.text.layers,
        kernels=subject.kernels,
        attention=subject.runner.attention.name,
        apart=subject.runner.attention.apart,
        largest_graph=subject.largest_graph,
        times=times,
        cases={case.name: case_to_plain(case) for case in batches},
        left=sum(max(0, job.rounds - done[case.name]) for case in batches),
    )
    with TemporaryDirectory() as folder, closing(Loop(subject, limits, folder)) as loop:
        turns = Turns(subject, loop)
        taken: list[dict[str, Any]] = []
        for number in range(job.rounds):
            wanted = [case for case in _order(batches, number) if done[case.name] <= number]
            if not _round(turns, tensor, wanted, taken, goes_on, output):
                return
        # Where the passes over a batch are not alike it is measured again, once.
        found = series_of(taken, job.repeats)
        again = [case for case in batches if case.name in found and not found[case.name].steady]
        if job.quick and 2 * len(again) > len(batches):
            again = []  # it is the machine that is not steady, and the next minute will be no better
        output.say("again", left=len(again) * job.rounds)
        for number in range(job.rounds):
            if not _round(turns, tensor, _order(again, number), taken, goes_on, output):
                return


def _round(
    turns: Turns,
    tensor: int,
    batches: Sequence[AnyCase],
    taken: list[dict[str, Any]],
    goes_on: Callable[[], bool],
    output: Output,
) -> bool:
    """A turn of each of these batches.

    Returns:
        Whether there was time for all.
    """
    known = {each["name"] for each in taken}
    for case in batches:
        if not goes_on():
            return False
        line = {"tensor": tensor, "name": case.name, **asdict(turns.turn(case))}
        if case.name not in known:
            line["about"] = turns.about(case)
        taken.append(line)
        output.say("turn", **line)
    return True


def _order(batches: Sequence[AnyCase], number: int) -> list[AnyCase]:
    """Of a round: the coarse grid is first in the first round, later ones have chance."""
    order = list(batches)
    if number:
        random.Random(number).shuffle(order)
    return order


def within(limits: Limits, subject: Subject) -> Limits:
    """Limits that the model and the KV pool, which may be smaller than was asked for, can keep."""
    kv = subject.runner.blocks * BLOCK
    context = min(limits.context, subject.loaded.max_context, kv)
    batch = min(limits.batch, kv // (4 * BLOCK))
    return Limits(min(limits.tokens, context), batch, context, kv, limits.patches)


def _once(job: Job) -> Iterator[tuple[str, list[Row]]]:
    """What has nothing to do with the device's share of the model."""
    if job.device == "cpu" and "front end" not in job.done:
        try:
            yield "front end", measure_front_end(job.model, _REQUESTS)
        except (OSError, TimeoutError) as error:
            print(f"the front end could not be measured: {error}", file=sys.stderr)
    if job.model_alone:
        return
    sizes = QUICK_SIZES if job.quick else SIZES
    if "text" not in job.done:
        yield "text", measure_text(job.model, _COPIES)
    if not {"copies", "messages"} <= set(job.done):
        yield from measure_copies(job.device, sizes, _COPIES)
    left = [count for count in _groups(job) if f"collectives {count}" not in job.done]
    yield from measure_collectives(job.device, left, sizes, _COPIES)


def _groups(job: Job) -> list[int]:
    """Members of groups whose collectives are measured.

    Raises:
        SpecError: one was asked for that there are not enough GPUs for.
    """
    here = torch.cuda.device_count() if job.device == "cuda" else None
    if job.collectives is None:
        return [count for count in job.tensor if count > 1 and (here is None or count <= here)]
    for count in job.collectives:
        if here is not None and count > here:
            problem = f"{count} members need a GPU each, and {here} {'is' if here == 1 else 'are'} here"
            raise SpecError("--collectives", f"{problem}; ask for fewer, or leave it out")
    return list(job.collectives)


def main() -> int:
    """Does the job on standard input.

    Returns:
        The exit code.
    """
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    try:
        run(Job.from_json(sys.stdin.readline()), Output(stream))
    except SpecError as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
