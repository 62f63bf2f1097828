"""Which kernels and number formats a CPU computes a model with: decided by times, and remembered.

Knows no torch: what measures is given (`trial.py`), so that the decision can be tested, and read, without it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Protocol

from triptych.catalog import machine
from triptych.spec.paths import cache_folder
from triptych.version import __version__

logger = logging.getLogger(__name__)

Timings = Mapping[str, Sequence[float] | None]
"""Seconds of each candidate at each size, the preferred candidates first; None: it failed."""

_TIE = 1.03
"""Times the seconds of the fastest within which a candidate that is preferred is taken."""
_REVISION = 1
"""Revision of candidates and trial: choices found under another one are stale."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What decides which kernels are fast: the shape of a model, and of the batches that it will run."""

    own: str
    """Number format of the model as it was declared: fp32, bf16 or fp16."""
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    widths: tuple[tuple[int, int], ...]
    """Inputs and outputs of its linear layers, each shape once."""
    batch: int
    """Sequences that decode at once."""
    chunk: int
    """Prompt tokens of an iteration."""
    context: int
    """Tokens of a sequence."""
    wide_weights: bool
    """Whether there is memory for weights in float32."""
    wide_kv: bool
    """Likewise for KV."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was decided."""

    products: str
    """Number format in which weights are kept and multiplied."""
    prompts: str
    """Kernel of the attention of prompts, with the format in which it computes."""
    decodes: str
    """Kernel of the attention of single tokens."""
    kv: str
    """Number format in which KV is kept."""

    def __str__(self) -> str:
        """In one line, for logs."""
        return (
            f"products in {self.products}; attention of prompts: {self.prompts}, "
            f"of decodes: {self.decodes}, KV in {self.kv}"
        )


class Trial(Protocol):
    """Measures candidates; names are those of `Choice`, a decode's with the format of KV behind it."""

    @property
    def steady(self) -> bool:
        """Whether what was measured so far can be trusted: runs of one candidate took alike."""

    def products(self) -> Timings:
        """Timings of linear layers, by number format."""

    def prompts(self, products: str) -> Timings:
        """Timings of attention of prompts whose queries come in this format."""

    def decodes(self, products: str) -> Timings:
        """Timings of attention of single tokens whose queries come in this format."""


def fastest(timings: Timings) -> str:
    """The candidate that takes the least time, every size counting alike.

    Within a tie the one that comes first. What has failed at any size is out.

    Raises:
        ValueError: none is left.
    """
    scores = {
        name: math.fsum(math.log(each) for each in seconds) / len(seconds)
        for name, seconds in timings.items()
        if seconds and all(0 < each < math.inf for each in seconds)
    }
    if not scores:
        raise ValueError(f"none of {', '.join(timings)} computes rightly here")
    best = min(scores.values())
    return next(name for name, score in scores.items() if score <= best + math.log(_TIE))


def decide(trial: Trial) -> tuple[Choice, dict[str, Timings]]:
    """The choice, and the times that it rests on.

    Raises:
        ValueError: nothing computes rightly.
    """
    timings = {"products": trial.products()}
    products = fastest(timings["products"])
    timings |= {"prompts": trial.prompts(products), "decodes": trial.decodes(products)}
    decodes, _, kv = fastest(timings["decodes"]).rpartition(" ")
    return Choice(products, fastest(timings["prompts"]), decodes, kv), timings


def choose(sizes: Sizes, trial: Trial, folder: Path | None = None) -> Choice:
    """The choice for a model on the CPU at hand: as remembered, else by trial.

    What is remembered holds for the processor, the cores and threads that this process has, the versions of
    torch and Triptych, and the sizes; a trial that other programs have disturbed is not remembered. Two
    processes that measure at once each keep what they found, whole; the later stays.

    Args:
        sizes: what decides.
        trial: measures, where nothing is remembered.
        folder: where choices are kept; None: `$XDG_CACHE_HOME/triptych/kernels`.

    Raises:
        ValueError: nothing computes rightly.
    """
    question = _question(sizes)
    digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:16]
    path = (folder or cache_folder() / "kernels") / f"{digest}.json"
    known = _remembered(path, question)
    if known is not None:
        return known
    choice, timings = decide(trial)
    for what, found in timings.items():
        for name, seconds in found.items():
            told = "failed" if seconds is None else ", ".join(f"{1e3 * each:.3f} ms" for each in seconds)
            logger.info("trial of %s: %s: %s", what, name, told)
    if trial.steady:
        _keep(path, {"question": question, "choice": asdict(choice), "timings": timings})
    return choice


def _question(sizes: Sizes) -> dict[str, Any]:
    found: dict[str, Any] = {
        "processor": machine.processor(),
        "cores": machine.cores(),
        "threads": machine.threads(),
        "torch": version("torch"),
        "triptych": __version__,
        "revision": _REVISION,
        **asdict(sizes),
    }
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def _remembered(path: Path, question: dict[str, Any]) -> Choice | None:
    """What a file says, if it is whole and answers this question."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["question"] != question:
            return None
        choice = Choice(**found["choice"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return choice if all(isinstance(value, str) for value in asdict(choice).values()) else None


def _keep(path: Path, found: dict[str, Any]) -> None:
    """Writes a choice, whole or not at all; where there is no room for it, the next start tries anew."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(
            "w", dir=path.parent, suffix=".partial", delete=False, encoding="utf-8"
        ) as partial:
            json.dump(found, partial, indent=1)
        os.replace(partial.name, path)  # noqa: PTH105 - a name, not a path
    except OSError:
        return
