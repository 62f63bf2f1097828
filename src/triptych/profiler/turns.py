"""Measures batches, a turn at a time: a few passes in a row, each cut into its operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter, sleep

from triptych.cost.placement import runs, stage_parts
from triptych.profiler.host import Loop
from triptych.profiler.marks import INPUT
from triptych.profiler.others import Lately
from triptych.profiler.sizes import AnyCase, Case, HostCase, ImageCase
from triptych.profiler.statistics import Piece
from triptych.profiler.subject import Subject
from triptych.profiler.trace import traced
from triptych.profiler.waiting import held_up, waits

_IN_A_ROW = 2
"""Measured passes of a turn. One of decodes before them is not measured: it finds what another batch left in
the caches, while a server decodes the same batch many times over."""
_AFTER = (0.0, 0.15)
"""Seconds of idleness before the passes of a prompt. A server computes such a batch once: after decodes, or
when it had nothing to do. Then processors have gone to sleep, and threads share one for a while."""
_AFTER_IMAGES = (0.0, 0.4)
"""The same for images, which come before the prompt that they are in and so meet all of the idleness."""
_DECODES = Case(decodes=(64,))
_FUSED = "mlp up+mlp activation"
_ALIASES = {"experts": "experts up"}
_BESIDE = {
    "vision positions": "patch embedding",
    "embedding projection": "embedding",
    "head projection": "head",
    "final norm": "head",
}
"""Where the time goes of what is no operator of a model."""


@dataclass
class Turn:
    """What one turn of a batch gave."""

    passes: list[dict[str, float]] = field(default_factory=list)
    """Seconds of each operator, once, in each pass."""
    whole: list[float] = field(default_factory=list)
    """Seconds of each pass, without the host's part."""
    waited: list[float] = field(default_factory=list)
    """For processors that others had, as a share of each pass."""


class Turns:
    """Takes turns.

    Args:
        subject: what runs.
        loop: the engine around it.
    """

    def __init__(self, subject: Subject, loop: Loop) -> None:
        self._subject = subject
        self._loop = loop
        self._others = Lately()
        self._runs: dict[AnyCase, Callable[[], list[Piece]]] = {}

    def turn(self, case: AnyCase) -> Turn:
        """Measures a batch."""
        if isinstance(case, HostCase):
            return self._host(case)
        run = self._run(case)
        # A GPU is as fast after a pause as without.
        once = self._subject.largest_graph == 0 and not self._subject.costly and not _is_of_decodes(case)
        if not once:
            run()
        turn = Turn()
        after = _AFTER_IMAGES if isinstance(case, ImageCase) else _AFTER
        for idle in after if once else (0.0,) * _IN_A_ROW:
            if once:
                self._run(_DECODES)()
                sleep(idle)
            before, began = waits(), perf_counter()
            pieces = run()
            seconds = perf_counter() - began
            turn.waited.append(held_up(before, waits(), seconds, self._others.cores()))
            taken = named(self._subject, pieces)
            turn.whole.append(sum(taken.values()))
            turn.passes.append(per_run(self._subject, taken))
        return turn

    def _host(self, case: HostCase) -> Turn:
        turn = Turn()
        for iteration in self._loop.iterations(case):
            turn.passes.append(
                {
                    "iteration": iteration.host,
                    "scheduling": iteration.scheduling,
                    "input building": iteration.building,
                    "sampler": iteration.sampler,
                }
            )
            turn.whole.append(iteration.host + iteration.sampler)
            turn.waited.append(iteration.waited)
        return turn

    def about(self, case: AnyCase) -> dict[str, object]:
        """What is found out about a batch once, unmeasured: experts touched, and time of kernels by trace."""
        if not isinstance(case, Case) or case.check:
            return {}
        kernels: dict[str, float] = {}
        if case.traced and self._subject.device.type == "cuda":
            run = self._subject.passes(case, all_marks=True)
            taken = named(self._subject, traced(self._subject.marks, run))
            kernels = per_run(self._subject, taken)
        return {"touched": round(self._subject.touched(case)), "kernels": kernels}

    def _run(self, case: Case | ImageCase) -> Callable[[], list[Piece]]:
        if case not in self._runs:
            self._runs[case] = self._subject.passes(case)
        return self._runs[case]


def _is_of_decodes(case: Case | ImageCase) -> bool:
    return isinstance(case, Case) and not case.chunks


def named(subject: Subject, pieces: list[Piece]) -> dict[str, float]:
    """Seconds in a pass by operators that the model has, without the host's part.

    What a model has no operator for belongs to the one beside it, and an activation function that runs within
    the product before it joins that.
    """
    taken: dict[str, float] = {}
    for given, seconds in pieces:
        name = given
        while name not in subject.operators and name in _BESIDE:
            name = _BESIDE[name]
        if subject.activation_is_fused and name in _FUSED.split("+"):
            name = _FUSED
        if name != INPUT:  # it belongs to the iteration: `host.py`
            taken[name] = taken.get(name, 0.0) + seconds
    return taken


def per_run(subject: Subject, taken: Mapping[str, float]) -> dict[str, float]:
    """Seconds of one run of each operator, on average over the pass."""
    return {name: seconds / times_of(subject, name) for name, seconds in taken.items()}


def times_of(subject: Subject, name: str) -> float:
    """How often an operator runs in a pass over the layers that were built.

    Raises:
        KeyError: the model has none of that name.
    """
    operator = subject.operators[_ALIASES.get(name, name.split("+")[0])]
    times = runs(operator, stage_parts(subject.spec, 1))
    if operator.part in ("vision", "embedding", "head"):
        return times
    return times * subject.layers / subject.spec.text.layers
