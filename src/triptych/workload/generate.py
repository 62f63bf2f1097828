"""From a declared workload to its requests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from triptych.spec.base import SpecError
from triptych.spec.workload import Closed, WorkloadSpec
from triptych.workload.arrivals import Floats, arrival_times
from triptych.workload.images import draw_images
from triptych.workload.lengths import cut_to_caps, draw_lengths
from triptych.workload.patience import draw_aborts
from triptych.workload.prefixes import draw_prefixes
from triptych.workload.requests import Requests
from triptych.workload.streams import stream
from triptych.workload.traces import read_trace


def generate(spec: WorkloadSpec, *, file: str | Path | None = None) -> Requests:
    """The requests of a workload, the same ones every time.

    Each aspect has a random stream of its own: to add images, say, changes no arrival and no length, and
    to ask for more requests leaves the first ones as they were.

    Args:
        spec: what is declared.
        file: the workload file, for errors and for a relative trace path.

    Raises:
        SpecError: the trace is missing or wrong, or nothing is left of it.
    """
    trace = None if spec.trace is None else read_trace(spec.trace, limit=spec.requests, file=file)
    if trace is not None:
        _check_against_trace(spec, trace, file)
    arrival = arrival_times(spec, None if trace is None else trace.arrival)
    if len(arrival) == 0:
        raise SpecError("duration", "no request comes within it; make it longer", file=file)
    requests = Requests.plain(arrival) if trace is None else _of_trace(spec, trace, arrival)

    prompt, output = cut_to_caps(
        spec.caps,
        draw_lengths(spec.prompt, requests.text_tokens, stream(spec.seed, "prompt")),
        draw_lengths(spec.output, requests.output_tokens, stream(spec.seed, "output")),
    )
    requests = replace(requests, text_tokens=prompt, output_tokens=output)
    if spec.images is not None:
        images = draw_images(spec.images, len(requests), spec.seed)
        requests = replace(requests, **images._asdict())
    if spec.prefixes is not None:
        prefixes = draw_prefixes(spec.prefixes, len(requests), spec.seed)
        requests = replace(requests, **prefixes._asdict())
    requests = _with_patience(spec, requests)
    return replace(requests, concurrency=_concurrency(spec, trace))


def _check_against_trace(spec: WorkloadSpec, trace: Requests, file: str | Path | None) -> None:
    """What only the content of the trace tells.

    Raises:
        SpecError: the trace brings what is also declared, or has no times where times are needed.
    """
    if spec.prompt.kind == "trace":
        if spec.images is not None and len(trace.image_content):
            raise SpecError("images", "prompts of the trace bring their own; remove it", file=file)
        if spec.prefixes is not None and len(trace.prefix_ids):
            raise SpecError("prefixes", "prompts of the trace bring their own; remove it", file=file)
    if spec.arrivals.kind == "trace" and trace.concurrency is not None and not trace.arrival.any():
        problem = "the trace is a closed loop and has no times; remove it"
        if spec.duration is not None:
            raise SpecError("duration", problem, file=file)
        if spec.rate_scale != 1:
            raise SpecError("rate_scale", problem, file=file)


def _of_trace(spec: WorkloadSpec, trace: Requests, arrival: Floats) -> Requests:
    """Requests of the trace at other times, from its start again when it is used up."""
    rows = np.arange(len(arrival)) % len(trace)
    taken = replace(trace, concurrency=None).take(rows, arrival)
    if spec.prompt.kind == "trace":
        return taken
    return replace(
        Requests.plain(arrival),
        output_tokens=taken.output_tokens,
        patience=taken.patience,
        gives_up_by_abort=taken.gives_up_by_abort,
    )


def _concurrency(spec: WorkloadSpec, trace: Requests | None) -> int | None:
    if isinstance(spec.arrivals, Closed):
        return spec.arrivals.concurrency
    if spec.max_concurrency is not None:
        return spec.max_concurrency
    if spec.arrivals.kind == "trace" and trace is not None:
        return trace.concurrency
    return None


def _with_patience(spec: WorkloadSpec, requests: Requests) -> Requests:
    """Whichever ends a client's patience first: the trace, the time-out or its going away."""
    patience, by_abort = requests.patience, requests.gives_up_by_abort
    if spec.timeout is not None:
        by_abort = by_abort & (patience <= spec.timeout)
        patience = np.minimum(patience, spec.timeout)
    if spec.aborts is not None:
        after = draw_aborts(spec.aborts, len(requests), spec.seed)
        by_abort = by_abort | (after < patience)
        patience = np.minimum(patience, after)
    return replace(requests, patience=patience, gives_up_by_abort=by_abort)
