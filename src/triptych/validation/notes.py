"""What has to be known of two records before the errors between them are believed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from triptych.catalog.machine import cores
from triptych.record import Run, summarise
from triptych.report.compare import Comparison
from triptych.report.format import count, number, percent

_BUSY = 0.1
"""Share of the cores that others may take unmentioned."""
_LESS = 0.05
"""Share of the machine that a server may lack unmentioned: its front end and the client need some."""
_CLIENT_BUSY = 0.8
"""Of one core: a client as busy as this measures itself too."""
_CACHED = 0.02
"""Difference of two shares of cached tokens that is mentioned."""


def machine_notes(others: float | None) -> Iterator[str]:
    """On the machine.

    Args:
        others: cores that other programs kept busy meanwhile; None: not known.
    """
    here = cores()
    if others is not None and others > _BUSY * here:
        yield (f"other programs took {number(others)} of {count(here, 'core')} meanwhile")


def left_notes(left: Sequence[float]) -> Iterator[str]:
    """On what predictions are of.

    Args:
        left: share of the machine that the server had in each repetition.
    """
    mean = sum(left) / len(left)
    if mean < 1 - _LESS:
        yield (
            f"the server's batches had {percent(mean)} of the cores that they can use, beside other "
            "programs, client and front end: this predicts what was left, batches "
            f"{number(1 / mean)} times as long"
        )


def kernel_notes(measured: str, chosen: Mapping[str, str]) -> Iterator[str]:
    """On what computed.

    Args:
        measured: kernels of the profile that predictions rest on; empty: not known.
        chosen: those of the server, by what they compute; empty: likewise.
    """
    if measured and any(kernel not in measured for kernel in chosen.values()):
        here = ", ".join(f"{what} {kernel}" for what, kernel in chosen.items())
        yield f"the server computed with {here}, and the profile was measured with: {measured}"


def run_notes(
    measured: Sequence[Run], predicted: Sequence[Run], comparisons: Sequence[Comparison]
) -> Iterator[str]:
    """On the repetitions of one level; `predicted` and `comparisons` belong to `measured`, one by one."""
    errors: Counter[str] = Counter()
    for run in measured:
        errors.update(run.meta["errors"])
    for problem, times in errors.most_common():
        yield f"{times:,} x {problem}"
    sides = [comparison.one_sided() for comparison in comparisons]
    for who, lost in zip(("predicted", "measured"), map(sum, zip(*sides, strict=True)), strict=True):
        if lost:
            yield f"{count(lost, 'request')} finished only as {who}: left out of latencies"
    if max(run.meta["client_cpu_share"] for run in measured) > _CLIENT_BUSY:
        yield "the client was near its limit, and part of the measured latencies is its own"
    overloaded = [
        who for who, runs in (("measured", measured), ("predicted", predicted)) if any(map(_overloaded, runs))
    ]
    if overloaded:
        yield (
            f"overloaded as {' and as '.join(overloaded)}: latencies grow with the length of the run, and "
            "every error with them"
        )
    shares = [_cached_share(runs) for runs in (predicted, measured)]
    if abs(shares[0] - shares[1]) > _CACHED:
        yield (
            f"the prefix cache held {percent(shares[0])} of prompt tokens as predicted, {percent(shares[1])} "
            "as measured"
        )


def _overloaded(run: Run) -> bool:
    overload = summarise(run).overload
    return overload is not None and overload.certain


def _cached_share(runs: Sequence[Run]) -> float:
    """Of the prompt tokens of all runs."""
    cached = sum(int(run.requests["cached_tokens"].sum()) for run in runs)
    return cached / max(sum(int(run.requests["prompt_tokens"].sum()) for run in runs), 1)
