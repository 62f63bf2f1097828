"""From measured attention to the grids of one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from triptych.cost.attention import Grid
from triptych.cost.fitting import Fitter, Samples, averaged
from triptych.cost.loads import Floats
from triptych.cost.operators import Operator
from triptych.cost.roofline import Roofline
from triptych.cost.together import Together, fit_together
from triptych.profiles import Profile
from triptych.spec.model import TextModel

ATTENTION = ("attention", "prefill attention", "decode attention")
"""Launches of prompts and decodes together, of prompts, of decodes."""
_DIMENSIONS: dict[str, tuple[str, ...]] = {
    "prefill": ("units", "history"),
    "decode": ("decodes", "decode_kv"),
    "joint": ("units", "history", "decodes", "decode_kv"),
}
_LAUNCH = ("prompts", "units", "history", "window")


@dataclass(frozen=True)
class Limits:
    """How far the grids reach."""

    queries: int
    """Prompt tokens of one iteration."""
    context: int
    """Tokens of one request."""
    decodes: int
    """Sequences that decode at once."""


@dataclass
class Attention:
    """Grids by their kind, empty where attention was not measured."""

    grids: dict[str, Grid] = field(default_factory=dict)
    unequal: float = 0.0
    together: Together | None = None
    """What several prompt chunks take in one launch; None: each is a launch of its own."""


def fill_attention(
    rows: Profile,
    operators: Mapping[str, Operator],
    roofline: Roofline,
    limits: Limits,
    fitter: Fitter,
    *,
    tensor: int,
) -> Attention:
    """The grids of attention; none unless both prompts and decodes were measured.

    Args:
        rows: measurements of one shape of attention.
        operators: by name; "prefill attention" and "decode attention" are among them.
        roofline: of the device.
        limits: of the deployment.
        fitter: chooses estimators.
        tensor: shards that the heads are split over.
    """
    names = rows.columns["operator"]
    of = {name: rows.columns[name] for name in (*_DIMENSIONS["joint"], "longest_kv")}
    prompts, decodes = of["units"] > 0, of["decodes"] > 0
    alone = rows.columns["prompts"] == 1
    equal = of["longest_kv"] <= of["decode_kv"]
    joint = names == "attention"
    apart = {kind: (names == f"{kind} attention") | joint for kind in ("prefill", "decode")}
    select = {
        "prefill": apart["prefill"] & prompts & ~decodes & alone,
        "decode": apart["decode"] & decodes & ~prompts & equal,
        "joint": joint & prompts & decodes & equal & alone,
    }
    found = Attention()
    if not (select["prefill"].any() and select["decode"].any()):
        return found
    for kind, mask in select.items():
        if mask.any():
            ideal = _ideal(kind, operators, roofline)
            found.grids[kind] = _grid(kind, rows.select(mask), ideal, limits, fitter)
    if rows.info.chunks == "together":
        launches = rows.select(apart["prefill"] & prompts & ~decodes).columns
        count, queries, history, window = (launches[name].astype(np.float64) for name in _LAUNCH)
        found.together = fit_together(count, queries, history, window, launches["seconds"])
    uneven = rows.select(apart["decode"] & decodes & ~prompts & ~equal)
    if len(uneven):
        found.unequal = _unequal(uneven, found.grids["decode"])
    else:
        found.unequal = rows.info.unequal.get(str(tensor), 0.0)
    return found


def of_shape(free: Profile, operators: Mapping[str, Operator], text: TextModel) -> Profile:
    """Rows of kernels with this model's heads, or with the nearest number of query heads."""
    decode, columns = operators["decode attention"], free.columns
    if text.windowed_layers is not None:  # layers of two kinds, of which a row has measured one
        return free.select(np.zeros(len(free), dtype=np.bool_))
    fits = np.isin(columns["operator"].astype(str), ATTENTION)
    fits &= columns["head_dim"] == decode.head_dim
    fits &= columns["window"] == (text.sliding_window or 0)
    fits &= columns["kv_precision"] == decode.precision
    fits &= columns["kv_heads"] == max(1.0, decode.kv_heads)
    if not fits.any():
        return free.select(fits)
    heads = columns["heads"][fits].astype(np.float64)
    nearest = heads[np.argmin(np.abs(np.log(heads) - np.log(decode.heads)))]
    return free.select(fits & (columns["heads"] == nearest))


def _grid(
    kind: str, rows: Profile, ideal: Callable[[Floats], Floats], limits: Limits, fitter: Fitter
) -> Grid:
    columns = _DIMENSIONS[kind]
    sizes = np.stack([rows.columns[name].astype(np.float64) for name in columns], axis=1)
    sizes, seconds = averaged(sizes, rows.columns["seconds"])
    model = fitter.fitted(f"{kind} attention", rows.info.name, Samples(sizes, ideal(sizes), seconds))
    limit = {
        "units": limits.queries,
        "history": limits.context,
        "decodes": limits.decodes,
        "decode_kv": limits.context,
    }
    knots = tuple(_reaching(np.unique(sizes[:, axis]), limit[name]) for axis, name in enumerate(columns))
    points = np.stack([axis.reshape(-1) for axis in np.meshgrid(*knots, indexing="ij")], axis=1)
    values = model.predict(points, ideal(points)).reshape([len(axis) for axis in knots])
    # What was measured stands as it is.
    place = tuple(np.searchsorted(axis, sizes[:, number]) for number, axis in enumerate(knots))
    values[place] = seconds
    return Grid(knots, values, sizes.min(axis=0), sizes.max(axis=0))


def _ideal(kind: str, operators: Mapping[str, Operator], roofline: Roofline) -> Callable[[Floats], Floats]:
    """Seconds by the roofline, of sizes of shape (rows, dimensions)."""
    prefill = roofline.attention(operators["prefill attention"])
    decode = roofline.attention(operators["decode attention"])

    def ideal(sizes: Floats) -> Floats:
        of = dict(zip(_DIMENSIONS[kind], sizes.T, strict=True))
        none = np.zeros(len(sizes))
        queries, history = of.get("units", none), of.get("history", none)
        sequences = of.get("decodes", none)
        kv = sequences * of.get("decode_kv", none)
        pairs = queries * (history + (queries + 1) / 2)
        compute = pairs * prefill.per_pair + kv * decode.per_pair
        moved = (history + queries) * (queries > 0) * prefill.per_kv + queries * prefill.per_unit
        moved = moved + kv * decode.per_kv + sequences * decode.per_unit
        return np.asarray(prefill.fixed + np.maximum(compute, moved))

    return ideal


def _unequal(rows: Profile, decode: Grid) -> float:
    """The share a of the way to the longest, by least squares: t = t(mean) + a (t(longest) - t(mean))."""
    columns = rows.columns
    sequences = columns["decodes"].astype(np.float64)
    mean = decode.at(np.stack([sequences, columns["decode_kv"].astype(np.float64)], axis=1))
    longest = decode.at(np.stack([sequences, columns["longest_kv"].astype(np.float64)], axis=1))
    way, more = (longest - mean) / mean, (columns["seconds"] - mean) / mean
    return float(np.clip(np.sum(way * more) / max(float(np.sum(way * way)), 1e-12), 0.0, 1.0))


def _reaching(knots: Floats, limit: int) -> Floats:
    """Knots up to a limit: beyond those measured each is twice the last."""
    reached = knots.tolist()
    while reached[-1] < limit:
        reached.append(max(2 * reached[-1], 16.0))
    return np.array(reached)
