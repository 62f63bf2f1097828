"""What is measured: batches of text and images, from which the sizes of all operators follow.

An operator is measured where it runs, within whole forward passes. A batch of one prompt piece gives prefill
attention at its size, a batch of decodes decode attention at theirs, and both give everything else at their
number of tokens. Batches that hold several kinds at once are measured to check the sum, never to learn from.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from triptych.spec.model import Experts, Model
from triptych.spec.vision import VisionModel

COARSE_CHUNKS = (16, 64, 256, 1024, 4096)
FINE_CHUNKS = (2, 8, 32, 128, 384, 512, 768, 1536, 2048, 3072, 6144, 8192)
TOKENS = (24, 48, 96, 192)
"""At which only token-level operators want to be known better: prompts without history."""
COARSE_HISTORY = (0, 16, 256, 1024, 4096)
"""Prompts with a little history too: the engine computes what comes before apart, which takes a step."""
FINE_HISTORY = (64, 512, 2048, 8192, 16384)
COARSE_DECODES = (1, 4, 16, 64, 256)
FINE_DECODES = (2, 8, 12, 24, 32, 48, 96, 128, 192)
COARSE_CONTEXTS = (16, 256, 1024, 4096)
FINE_CONTEXTS = (64, 128, 512, 2048, 8192, 16384)
SIDES = (112, 224, 336, 448, 560, 672, 896, 1120, 1344)
"""Pixels of a side of an image; beside the squares, images of twice the width."""
COARSE_SIDES = (112, 224, 448, 896)


class Case(NamedTuple):
    """A batch of the language model."""

    chunks: tuple[tuple[int, int], ...] = ()
    """Tokens and history of each piece of a prompt."""
    decodes: tuple[int, ...] = ()
    """KV tokens of each sequence that decodes, the new one included."""
    experts: int = 0
    """Of a layer, that its tokens may go to; 0: wherever the router sends them."""
    check: bool = False
    """Measured to be predicted, not to learn from."""

    @property
    def tokens(self) -> int:
        """That pass the layers."""
        return sum(tokens for tokens, _ in self.chunks) + len(self.decodes)

    @property
    def sampled(self) -> int:
        """Sequences that get a token: all."""
        return len(self.chunks) + len(self.decodes)

    @property
    def kv(self) -> int:
        """Tokens that lie in the KV pool."""
        return sum(tokens + history for tokens, history in self.chunks) + sum(self.decodes)

    @property
    def name(self) -> str:
        """By which it is known in the journal of finished measurements."""
        chunks = "+".join(f"{tokens}after{history}" for tokens, history in self.chunks)
        decodes = "+".join(map(str, self.decodes)) if len(set(self.decodes)) > 1 else ""
        equal = f"{len(self.decodes)}x{self.decodes[0]}" if self.decodes and not decodes else decodes
        experts = f"to {self.experts} experts" if self.experts else ""
        kind = "check" if self.check else "text"
        return " ".join(part for part in (kind, chunks, equal, experts) if part)

    @property
    def traced(self) -> bool:
        """Whether kernels are traced as well, which takes long: at a few sizes."""
        if self.chunks:
            return self.chunks[0] in [(tokens, 0) for tokens in COARSE_CHUNKS]
        return self.decodes == (256,) * len(self.decodes) and len(self.decodes) in COARSE_DECODES


class ImageCase(NamedTuple):
    """A batch of the vision tower."""

    grids: tuple[tuple[int, int], ...]
    """Patches in height and width of each image."""
    check: bool = False

    @property
    def patches(self) -> int:
        """Of all images."""
        return sum(rows * columns for rows, columns in self.grids)

    @property
    def name(self) -> str:
        """As of `Case`."""
        images = "+".join(f"{rows}x{columns}" for rows, columns in self.grids)
        return f"{'check ' if self.check else ''}images {images}"


class HostCase(NamedTuple):
    """A batch of the whole engine, for the host's time of it."""

    decodes: int = 0
    """Sequences that decode."""
    prompt: int = 0
    """Tokens of a prompt that is computed in one iteration."""
    check: bool = False

    @property
    def name(self) -> str:
        """As of `Case`."""
        return f"host {self.decodes} decodes" if self.decodes else f"host {self.prompt} tokens"


AnyCase: TypeAlias = Case | ImageCase | HostCase


@dataclass(frozen=True)
class Limits:
    """How far the sizes go."""

    tokens: int
    """Of one prompt piece, and of one batch."""
    batch: int
    """Sequences that decode at once."""
    context: int
    """Tokens of one request."""
    kv: int
    """Tokens that the KV pool holds."""
    patches: int
    """Of one batch of images."""


def cases(model: Model, limits: Limits, *, quick: bool, checks: int) -> list[AnyCase]:
    """All batches to measure: the coarse grids first, and those that check dealt among them.

    Args:
        model: its shape.
        limits: none is exceeded; what is at a limit is measured.
        quick: the coarse grids alone.
        checks: mixed batches of text, and a third as many of images.
    """
    experts, vision = model.text.experts, model.vision
    wanted: list[AnyCase] = []
    for coarse in (True,) if quick else (True, False):
        wanted += [] if vision is None else image_cases(vision, limits, quick=coarse)
        wanted += host_cases(limits, quick=coarse)
        wanted += text_cases(limits, experts, quick=coarse)
    whole: list[AnyCase] = list(mixed_cases(limits, checks))
    if vision is not None:
        whole += mixed_images(vision, limits, checks // 3)
    random.Random(4).shuffle(whole)
    return spread_out(list(dict.fromkeys(wanted)), whole)


def text_cases(limits: Limits, experts: Experts | None, *, quick: bool) -> list[Case]:
    """Batches of the language model of which operators are learned, in a random order, always the same."""
    context = min(limits.context, limits.kv)
    chunks = _up_to(COARSE_CHUNKS, min(limits.tokens, context))
    history = _up_to(COARSE_HISTORY, context)
    decodes = _up_to(COARSE_DECODES, limits.batch)
    contexts = _up_to(COARSE_CONTEXTS, context)
    if quick:
        found = _grid(limits, chunks, history, decodes, contexts) + _experts(limits, experts, chunks, decodes)
    else:
        found = _grid(
            limits,
            _up_to({*chunks, *FINE_CHUNKS}, chunks[-1]),
            _up_to({*history, *FINE_HISTORY}, history[-1]),
            _up_to({*decodes, *FINE_DECODES}, decodes[-1]),
            _up_to({*contexts, *FINE_CONTEXTS}, contexts[-1]),
        )
        found += [Case(((tokens, 0),)) for tokens in TOKENS if tokens <= chunks[-1]]
        found += _unequal(limits, contexts)
    random.Random(0).shuffle(found)
    return found


def host_cases(limits: Limits, *, quick: bool) -> list[AnyCase]:
    """Decodes alone, and prompts of one iteration."""
    counts = _up_to(COARSE_DECODES if quick else {*COARSE_DECODES, *FINE_DECODES[:2], 32}, limits.batch)
    found: list[AnyCase] = [HostCase(decodes=count) for count in counts]
    chunks = _up_to(COARSE_CHUNKS, min(limits.tokens, limits.context - 1))
    return found + [HostCase(prompt=tokens) for tokens in chunks]


def spread_out(cases: Sequence[AnyCase], checks: Sequence[AnyCase]) -> list[AnyCase]:
    """The checks dealt evenly among the others, so that a slow hour of the machine shows in both."""
    placed = [((place + 1) * len(cases) / (len(checks) + 1), case) for place, case in enumerate(checks)]
    return [case for _, case in sorted([*enumerate(cases), *placed], key=lambda pair: pair[0])]


def _grid(
    limits: Limits,
    chunks: Iterable[int],
    history: Iterable[int],
    decodes: Iterable[int],
    contexts: Iterable[int],
) -> list[Case]:
    cases = [Case(((tokens, before),)) for tokens in chunks for before in history]
    cases += [Case(decodes=(context,) * count) for count in decodes for context in contexts]
    return [case for case in cases if _fits(case, limits)]


def _experts(
    limits: Limits, experts: Experts | None, chunks: Iterable[int], decodes: Iterable[int]
) -> list[Case]:
    """Batches whose tokens go to fewer experts than random ones would."""
    if experts is None:
        return []
    few = [
        count for count in (experts.top_k, experts.count // 4, experts.count // 2) if count >= experts.top_k
    ]
    cases = [Case(((tokens, 0),), experts=count) for tokens in chunks for count in few]
    cases += [Case(decodes=(256,) * decode, experts=count) for decode in decodes for count in few]
    return [case for case in cases if _fits(case, limits) and case.tokens * experts.top_k >= case.experts]


def _fits(case: Case, limits: Limits) -> bool:
    longest = max([tokens + history for tokens, history in case.chunks] + list(case.decodes))
    return longest <= limits.context and case.kv + 16 * case.sampled <= limits.kv


def _unequal(limits: Limits, contexts: list[int]) -> list[Case]:
    """One long context among short ones, and contexts spread evenly."""
    cases = []
    for count in (4, 16):
        for longest in contexts[1:]:
            cases.append(Case(decodes=(longest,) + (max(16, longest // 16),) * (count - 1)))
            cases.append(
                Case(decodes=tuple(max(16, longest * place // count) for place in range(1, count + 1)))
            )
    return [case for case in cases if len(case.decodes) <= limits.batch and _fits(case, limits)]


def mixed_cases(limits: Limits, count: int) -> list[Case]:
    """Random batches of decodes beside pieces of prompts, as servers form them."""
    chance = random.Random(1)
    context = min(limits.context, limits.kv)
    cases: list[Case] = []
    while len(cases) < count:
        decodes = [
            _size(chance, 16, context)
            for _ in range(_size(chance, 1, limits.batch) if chance.random() < 0.8 else 0)
        ]
        chunks = []
        for _ in range(chance.choice((0, 1, 1, 2, 3)) if decodes else chance.choice((1, 2))):
            tokens = _size(chance, 8, min(limits.tokens, context) // 2)
            room = context - tokens
            chunks.append((tokens, chance.choice((0, 0, _size(chance, 16, room)))))
        case = Case(tuple(chunks), tuple(sorted(decodes)), check=True)
        if case.tokens <= limits.tokens and _fits(case, limits):
            cases.append(case)
    return cases


def image_cases(vision: VisionModel, limits: Limits, *, quick: bool) -> list[ImageCase]:
    """Images one at a time."""
    unit = vision.merge * vision.patch
    grids: dict[tuple[int, int], None] = {}
    for side in COARSE_SIDES if quick else SIDES:
        for wide in (1,) if quick else (1, 2):
            rows, columns = (max(1, round(pixels / unit)) * vision.merge for pixels in (side, side * wide))
            grids[rows, columns] = None
    fitting = [grid for grid in grids if grid[0] * grid[1] <= limits.patches]
    return [ImageCase((grid,)) for grid in fitting or [(vision.merge, vision.merge)]]


def mixed_images(vision: VisionModel, limits: Limits, count: int) -> list[ImageCase]:
    """Batches of several images."""
    chance = random.Random(2)
    single = [case.grids[0] for case in image_cases(vision, limits, quick=False)]
    drawn = [tuple(chance.choice(single) for _ in range(chance.choice((2, 3, 4)))) for _ in range(20 * count)]
    found = [ImageCase(grids, check=True) for grids in drawn]
    return [case for case in found if case.patches <= limits.patches][:count]


def _up_to(sizes: Iterable[int], limit: int) -> list[int]:
    """Those below a limit, rising, and the limit."""
    return sorted({size for size in sizes if size < limit} | {limit})


def _size(chance: random.Random, low: int, high: int) -> int:
    """Equally likely in each octave."""
    return round(float(low * (max(high, low) / low) ** chance.random()))
