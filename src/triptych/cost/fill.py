"""From measured operators to the tables of one model under one parallelism."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from triptych.cost.estimators import Interpolation
from triptych.cost.fill_attention import ATTENTION, Attention, Limits, fill_attention, of_shape
from triptych.cost.fitting import Fitter, Samples, averaged
from triptych.cost.loads import Floats, Load
from triptych.cost.operators import Operator
from triptych.cost.roofline import Roofline
from triptych.cost.tables import Curve, Tables
from triptych.profiles import Profile
from triptych.spec.device import Precision
from triptych.spec.model import Model

_COVERS: dict[str, tuple[str, ...]] = {
    "experts": ("experts up", "experts activation", "experts down"),
    "qk norm": ("rope and KV write",),
    "vision tower": ("vision tower",),
}
"""Names of measurements that are none of `cost`'s operators -> the operators that they stand for."""
_HALF: tuple[Precision, ...] = ("bf16", "fp16")
_NEAR = 4.1
"""How many times wider or narrower a matrix may be to teach something about another."""


def fill(
    profiles: Sequence[Profile],
    model: Model,
    operators: Sequence[Operator],
    roofline: Roofline,
    limits: Limits,
    *,
    tensor: int,
    estimator: str | None = None,
) -> Tables:
    """The tables of one model.

    Args:
        profiles: where there are several measurements of an operator, the first that has one counts.
        model: whose operators these are.
        operators: that one device runs.
        roofline: of the device.
        limits: of the deployment.
        tensor: shards that every matrix is split into.
        estimator: by name, for all operators; None: for each the one of the quick ones that does better at
            held-out sizes; "best": of all.
    """
    filler = _Filler(model, {each.name: each for each in operators}, roofline, limits, tensor, estimator)
    for profile in profiles:
        filler.operators_of_model(profile)
    for profile in profiles:
        filler.kernels(profile)
    return filler.tables()


class _Filler:
    def __init__(
        self,
        model: Model,
        operators: dict[str, Operator],
        roofline: Roofline,
        limits: Limits,
        tensor: int,
        estimator: str | None,
    ) -> None:
        self._model, self._operators, self._roofline = model, operators, roofline
        self._limits, self._tensor = limits, tensor
        self._fitter = Fitter(estimator)
        self._curves: dict[str, Curve] = {}
        self._covered: set[str] = set()
        self._attention = Attention()
        self._iteration = self._sequence = 0.0

    def tables(self) -> Tables:
        grids = self._attention.grids
        return Tables(
            curves=self._curves,
            covered=frozenset(self._covered - set(self._curves)),
            prefill=grids.get("prefill"),
            decode=grids.get("decode"),
            joint=grids.get("joint"),
            unequal=self._attention.unequal,
            together=self._attention.together,
            iteration=self._iteration,
            sequence=self._sequence,
            fits=tuple(self._fitter.fits),
        )

    # Operators of this very model --------------------------------------------------------------------

    def operators_of_model(self, profile: Profile) -> None:
        own = profile.of(model=self._model.name, tensor=self._tensor)
        own = own.select(np.isin(own.columns["precision"].astype(str), self._formats()))
        if not len(own):
            return
        names = sorted(set(own.columns["operator"].tolist()), key=lambda name: (-len(_parts(name)), name))
        for name in names:
            rows = own.of(operator=name)
            if name == "iteration":
                self._host(rows)
            elif name not in ATTENTION:
                self._operator(name, rows)
        self._fill_attention(own)

    def _formats(self) -> list[str]:
        """Those in which measurements count: of the operators themselves; 16-bit formats are as fast."""
        found = {operator.precision for operator in self._operators.values() if operator.kind == "matmul"}
        return [*found, *(_HALF if found & set(_HALF) else ())]

    def _operator(self, name: str, rows: Profile) -> None:
        parts = [part for part in _parts(name) if part in self._operators]
        if not parts or set(parts) & self._covered - _SUMMED:
            return
        operator = self._operators[parts[0]]
        columns = ("units", "touched") if rows.columns["touched"].any() else ("units",)
        sizes = np.stack([rows.columns[column].astype(np.float64) for column in columns], axis=1)

        def at(units: Floats) -> Floats:
            if len(columns) == 1:
                return units[:, None]
            # A device gets the share of the tokens' copies that go to its group of experts.
            return np.stack([units / operator.groups, _touched(operator, units)], axis=1)

        def ideal(sizes: Floats) -> Floats:
            if len(columns) == 1:
                return self._together(parts, sizes[:, 0])
            return np.asarray(sum(self._expert(self._operators[part], sizes) for part in parts))

        curve = self._curve(name, rows, sizes, ideal, at, np.unique(sizes[:, 0]) * operator.groups)
        known = self._curves.get(parts[0])
        self._curves[parts[0]] = curve if known is None else _sum(known, curve)
        self._covered |= set(parts)

    def _host(self, rows: Profile) -> None:
        """Host seconds = iteration + sequence x sequences, relative errors counting."""
        from scipy.optimize import nnls

        seconds = rows.columns["seconds"]
        design = np.stack([1 / seconds, rows.columns["decodes"] / seconds], axis=1)
        (self._iteration, self._sequence), _ = nnls(design, np.ones(len(seconds)))

    # Kernels of any model, by shape -------------------------------------------------------------------

    def kernels(self, profile: Profile) -> None:
        free = profile.of(model="")
        if not len(free):
            return
        for operator in self._operators.values():
            if operator.name in self._covered or operator.name in self._curves:
                continue
            if operator.collective is not None:
                self._collective(operator, free)
            elif operator.experts:
                self._experts(operator, free)
            elif operator.kind == "matmul":
                self._matmul(operator, free)
        self._fill_attention(of_shape(free, self._operators, self._model.text))

    def _fill_attention(self, rows: Profile) -> None:
        if not self._attention.grids and len(rows):
            self._attention = fill_attention(
                rows, self._operators, self._roofline, self._limits, self._fitter, tensor=self._tensor
            )

    def _collective(self, operator: Operator, free: Profile) -> None:
        collective = operator.collective
        assert collective is not None
        rows = free.of(operator=collective.name, members=collective.members)
        if len(rows):
            sizes = rows.columns["bytes"][:, None]
            curve = self._curve(
                operator.name,
                rows,
                sizes,
                lambda sizes: collective.seconds(sizes[:, 0]),
                lambda size: size[:, None],
                np.unique(sizes),
            )
            self._curves[operator.name] = curve

    def _matmul(self, operator: Operator, free: Profile) -> None:
        rows = free.of(operator="matmul", precision=operator.precision)
        if not len(rows):
            return
        columns = rows.columns
        shape = (operator.inputs, operator.outputs)
        # Far shapes teach nothing about this one and take long to search.
        near = np.ones(len(rows), dtype=np.bool_)
        for name, size in zip(("inputs", "outputs"), shape, strict=True):
            near &= (columns[name] >= size / _NEAR) & (columns[name] <= size * _NEAR)
        rows = rows.select(near)
        if len(rows) < 30:
            return
        sizes = np.stack(
            [rows.columns[name].astype(np.float64) for name in ("units", "inputs", "outputs")], axis=1
        )
        per_unit = operator.flop / (2 * operator.inputs * operator.outputs)

        def at(units: Floats) -> Floats:
            own = [units * per_unit, np.full(len(units), shape[0]), np.full(len(units), shape[1])]
            return np.stack(own, axis=1)

        def ideal(sizes: Floats) -> Floats:
            element = operator.weights / (operator.inputs * operator.outputs)
            return self._roofline.matmul(operator, sizes[:, 0], sizes[:, 1], sizes[:, 2], element)

        knots = np.unique(sizes[:, 0]) / per_unit
        self._curves[operator.name] = self._curve(operator.name, rows, sizes, ideal, at, knots)

    def _experts(self, operator: Operator, free: Profile) -> None:
        """One kernel does the experts' both matrices and the activation between."""
        experts = self._model.text.experts
        if operator.name != "experts up" or experts is None:
            return
        gates = 2 if self._model.text.gated_mlp else 1
        shards = round(experts.intermediate * gates / operator.outputs)
        rows = free.of(
            operator="experts",
            precision=operator.precision,
            inputs=operator.inputs,
            outputs=experts.intermediate,
            experts=experts.count,
            top_k=experts.top_k,
            tensor=shards,
            groups=operator.groups,
        )
        if len(rows) >= 3:
            sizes = rows.columns["units"].astype(np.float64)[:, None]
            curve = self._curve(
                "experts",
                rows,
                sizes,
                lambda sizes: self._together(_COVERS["experts"], sizes[:, 0]),
                lambda units: units[:, None],
                np.unique(sizes),
            )
            self._curves["experts up"] = curve
            self._covered |= set(_COVERS["experts"])

    # Fits --------------------------------------------------------------------------------------------

    def _curve(
        self,
        name: str,
        rows: Profile,
        sizes: Floats,
        ideal: Callable[[Floats], Floats],
        at: Callable[[Floats], Floats],
        knots: Floats,
    ) -> Curve:
        sizes, seconds = averaged(sizes, rows.columns["seconds"])
        model = self._fitter.fitted(name, rows.info.name, Samples(sizes, ideal(sizes), seconds))
        points = at(knots)
        exact = sizes.shape[1] == 1 and isinstance(model, Interpolation)
        return Curve(knots, seconds if exact else model.predict(points, ideal(points)), exact)

    def _expert(self, operator: Operator, sizes: Floats) -> Floats:
        """Seconds by the roofline where so many experts of those on the device are touched."""
        held = operator.experts / operator.groups if operator.experts else 1.0
        touching = replace(operator, share=lambda units: sizes[:, 1] / held)
        return self._ideal(touching, sizes[:, 0] * operator.groups)

    def _together(self, names: Sequence[str], units: Floats) -> Floats:
        return np.asarray(np.sum([self._ideal(self._operators[name], units) for name in names], axis=0))

    def _ideal(self, operator: Operator, units: Floats) -> Floats:
        none = np.zeros(1)
        return self._roofline.seconds(operator, Load(units, none, none))


_SUMMED = {"rope and KV write"}
"""Operators that are measured as several kernels, one after the other."""


def _parts(name: str) -> tuple[str, ...]:
    return _COVERS.get(name) or tuple(name.split("+"))


def _touched(operator: Operator, tokens: Floats) -> Floats:
    """Experts of one device that at least one of so many tokens is sent to, on average."""
    held = operator.experts / operator.groups
    return np.asarray(held * operator.share(tokens))


def _sum(one: Curve, other: Curve) -> Curve:
    """Two kernels, one after the other."""
    knots = np.union1d(one.knots, other.knots)
    first, second = (np.interp(knots, curve.knots, curve.seconds) for curve in (one, other))
    return Curve(knots, first + second, one.exact and other.exact)
