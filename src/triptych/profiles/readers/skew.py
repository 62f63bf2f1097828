"""How much longer attention takes when decodes have unequal lengths, as LLMServingSim fits it.

`skew_fit.csv` lies beside `attention.csv` in a layer profile of vLLM and holds a coefficient alpha for each
bucket of five sizes. The axes' limits are in `meta.yaml`, under `skew_fit.bucket_axes`.

What the files themselves say of the axes: `skew_rate` is the share of decodes that are long. With 1, 2, 3, 4
and each `ratio` of `skew_profile.grid` as long ones among 2, 4, ... 256 decodes, and two lengths to a bucket
of `kv_big`, 98 % of all buckets have just the number of samples that they should; the totals are those of
`meta.yaml`. `kv_big` is the length of the long ones, 4 times (`skew_rep`) that of the others. What no file
says is the rule by which alpha is applied; presumably

    seconds = at the mean length + alpha x (at the longest length - at the mean length)

which the samples would tell, and they are not published. Buckets with alpha below 0 or above 1 are those in
which the two times hardly differ, so that noise is divided by next to nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from triptych.profiles.readers.source import read_csv, read_mapping
from triptych.spec.base import SpecError, shown

_AXES = {"n": "n_label", "skew_rate": "skew_rate_label", "kv_big": "kv_big_label", "kp": "kp_label"}
"""Axis of `bucket_axes` -> column of `skew_fit.csv`."""
_PUBLISHED: dict[str, tuple[tuple[float, ...], tuple[str, ...]]] = {
    "n": (
        (2, 4, 8, 16, 32, 64, 128, 256),
        ("n<=2", "n<=4", "n<=8", "n<=16", "n<=32", "n<=64", "n<=128", "n<=256", "n>256"),
    ),
    "skew_rate": ((0.05, 0.15, 0.4, 0.7), ("sr<=5%", "sr<=15%", "sr<=40%", "sr<=70%", "sr>70%")),
    "kv_big": ((1024, 4096, 16384), ("kvB<=1k", "kvB<=4k", "kvB<=16k", "kvB>16k")),
    "kp": (
        (0, 512, 1024, 2048, 4096, 8192),
        ("kp=0", "kp<=512", "kp<=1k", "kp<=2k", "kp<=4k", "kp<=8k", "kp>8k"),
    ),
}
"""Axes of profiles whose `meta.yaml` gives none: those of all that do."""


@dataclass(frozen=True)
class Axis:
    """The buckets of one size: bucket i holds values up to `limits[i]`, the last one all beyond."""

    limits: tuple[float, ...]
    labels: tuple[str, ...]

    def bucket(self, value: float) -> int:
        """The number of the bucket that holds a value."""
        return bisect_left(self.limits, value)


@dataclass(frozen=True)
class Skew:
    """Alpha by buckets: how far attention lies from the time at the mean length towards that at the longest.

    A key of `alphas` is (chunk, bucket of decodes, of the share of long ones, of the longest length, of the
    history before the chunk); chunks are those that were measured, 0 for decodes alone.
    """

    axes: Mapping[str, Axis]
    alphas: Mapping[tuple[int, int, int, int, int], float]
    chunks: tuple[int, ...]
    default: float
    """Of buckets without a sample: `alpha_default` of `meta.yaml`; where it has none, the mean over decodes
    without a prompt, each bucket by its samples. The two are alike (0.054 and 0.048, Llama-3.1-8B)."""
    enabled: bool
    """Whether `meta.yaml` says that the profile's own simulator uses it."""

    def alpha(
        self, *, chunk: int, history: int, decodes: int, mean: float, shortest: int, longest: int
    ) -> float:
        """Alpha of a batch, within 0 and 1.

        Args:
            chunk: query tokens of the prompts.
            history: tokens of them that are in the KV cache before.
            decodes: sequences that decode.
            mean: tokens of KV that each of them reads, on average.
            shortest: those that the shortest reads.
            longest: those that the longest reads.
        """
        if longest <= shortest or decodes < 2:
            return 0.0
        # Of two lengths this is the share of long ones; of more it is what two such would have as their mean.
        share = (mean - shortest) / (longest - shortest)
        key = (
            self._nearest(chunk),
            self.axes["n"].bucket(decodes),
            self.axes["skew_rate"].bucket(share),
            self.axes["kv_big"].bucket(longest),
            self.axes["kp"].bucket(history),
        )
        return min(1.0, max(0.0, self.alphas.get(key, self.default)))

    def _nearest(self, chunk: int) -> int:
        """The measured chunk that is nearest by its ratio; none is near to 0 but 0."""
        if not chunk:
            return 0
        some = [size for size in self.chunks if size]
        return min(some, key=lambda size: max(size / chunk, chunk / size), default=0)


def read_skew(path: str | Path) -> Skew:
    """The skew table of one tensor parallelism.

    Args:
        path: the folder `tp<N>` of a layer profile; `meta.yaml` lies above it.

    Raises:
        SpecError: a file, column or row that is missing or cannot be right.
    """
    folder = Path(path)
    about = folder.parent / "meta.yaml"
    meta = read_mapping(about)
    fit = meta.get("skew_fit")
    fit = fit if isinstance(fit, dict) else {}
    axes = _axes(fit.get("bucket_axes"), about)
    source = read_csv(folder / "skew_fit.csv")
    source.need(("pc", *_AXES.values(), "alpha", "n_samples"))
    chunks, alphas = source.counts("pc").tolist(), source.numbers("alpha").tolist()
    buckets = []
    for axis, column in _AXES.items():
        labels, known = source.texts(column).tolist(), axes[axis].labels
        for row, label in enumerate(labels):
            if label not in known:
                problem = f"{shown(label)} is none of {', '.join(known)} of meta.yaml; fix or drop it"
                raise SpecError(f"{column}, row {row}", problem, file=source.file)
        buckets.append([known.index(label) for label in labels])
    keys = list(zip(chunks, *buckets, strict=True))
    table = dict(zip(keys, alphas, strict=True))
    if len(table) < len(keys):
        row = next(row for row, key in enumerate(keys) if key in keys[:row])
        raise SpecError(f"row {row}", "its bucket has come before; drop one of the two", file=source.file)
    return Skew(
        axes=axes,
        alphas=table,
        chunks=tuple(sorted(set(chunks))),
        default=_default(fit, folder.name, table, source.counts("n_samples").tolist()),
        enabled=bool(fit.get("enabled", False)),
    )


def _default(
    fit: Mapping[str, Any],
    folder: str,
    alphas: Mapping[tuple[int, int, int, int, int], float],
    samples: Sequence[int],
) -> float:
    per_tp = fit.get("per_tp")
    about = per_tp.get(int(folder.removeprefix("tp"))) if isinstance(per_tp, dict) else None
    given = about.get("alpha_default") if isinstance(about, dict) else None
    if isinstance(given, (int, float)):
        return float(given)
    alone = [
        (alpha, count) for (key, alpha), count in zip(alphas.items(), samples, strict=True) if not key[0]
    ]
    weight = sum(count for _, count in alone)
    return sum(min(1.0, max(0.0, alpha)) * count for alpha, count in alone) / weight if weight else 0.0


def _axes(given: object, about: Path) -> dict[str, Axis]:
    """The axes of `bucket_axes`, whose bins are outer limits: one more than labels."""
    if given is None:
        return {name: Axis(limits, labels) for name, (limits, labels) in _PUBLISHED.items()}
    axes = {}
    for name in _AXES:
        bins = given.get(f"{name}_bins") if isinstance(given, dict) else None
        labels = given.get(f"{name}_labels") if isinstance(given, dict) else None
        field = f"skew_fit.bucket_axes.{name}_bins"
        if not isinstance(bins, list) or not isinstance(labels, list) or len(bins) != len(labels) + 1:
            raise SpecError(field, "must be a list of limits, one more than labels", file=about)
        if any(not isinstance(limit, (int, float)) for limit in bins):
            raise SpecError(field, "must be numbers", file=about)
        if any(low >= high for low, high in pairwise(bins)):
            raise SpecError(field, "must rise", file=about)
        axes[name] = Axis(tuple(bins[1:-1]), tuple(map(str, labels)))
    return axes
