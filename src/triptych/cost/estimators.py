"""How long an operator takes at a size that was not measured: four ways, behind one interface.

All learn the ratio of what was measured to what the roofline says. Beyond the measured sizes the ratio stays
what it was at the edge, so that every estimator extrapolates along the roofline's slope.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from triptych.cost.loads import Floats

_NEIGHBOURS = 16
"""Of a local regression; held-out errors on published profiles rise on both sides of it."""
_BATCH = 20_000
"""Queries that are solved at once: it bounds memory."""


class Estimator(ABC):
    """Runtime as a function of sizes.

    Sizes are arrays of shape (rows, dimensions), roofline and seconds of shape (rows,).
    """

    name: ClassVar[str]

    def fit(self, sizes: Floats, roofline: Floats, seconds: Floats) -> Self:
        """Learns from measurements; `roofline` is what the data sheet says of them, in seconds."""
        self._low, self._high = sizes.min(axis=0), sizes.max(axis=0)
        self._learn(sizes, roofline, seconds)
        return self

    def predict(self, sizes: Floats, roofline: Floats) -> Floats:
        """Seconds at other sizes.

        Args:
            sizes: shape (rows, dimensions).
            roofline: seconds of the roofline at these sizes; sizes beyond the measured ones are worked out at
                the edge and scaled by how much further the roofline goes.
        """
        return np.asarray(self._ratio(np.clip(sizes, self._low, self._high)) * roofline)

    def inside(self, sizes: Floats) -> NDArray[np.bool_]:
        """Which sizes lie within the measured range of every dimension."""
        return np.asarray(((sizes >= self._low) & (sizes <= self._high)).all(axis=1))

    @abstractmethod
    def _learn(self, sizes: Floats, roofline: Floats, seconds: Floats) -> None: ...

    @abstractmethod
    def _ratio(self, sizes: Floats) -> Floats:
        """Seconds over the roofline's, at sizes within the measured range."""


class Interpolation(Estimator):
    """Between neighbours: a line in one dimension, a local linear fit of the ratio in several.

    The local fit weighs the nearest measurements, in the logarithm of sizes, by the tricube kernel. Source:
    Cleveland, Devlin, "Locally Weighted Regression", Journal of the American Statistical Association, 1988.
    """

    name: ClassVar[str] = "interpolation"

    def _learn(self, sizes: Floats, roofline: Floats, seconds: Floats) -> None:
        self._varying = np.flatnonzero(self._low < self._high)
        points = _logarithms(sizes[:, self._varying])
        self._logs = np.log(seconds / roofline)
        self._mean = float(self._logs.mean())
        if len(self._varying) == 1:
            order = np.argsort(points[:, 0], kind="stable")
            self._points, self._logs = points[order], self._logs[order]
        elif len(self._varying) > 1:
            from scipy.spatial import cKDTree

            self._points = points
            self._tree = cKDTree(points)

    def _ratio(self, sizes: Floats) -> Floats:
        if len(self._varying) == 0:
            return np.full(len(sizes), np.exp(self._mean))
        queries = _logarithms(sizes[:, self._varying])
        if len(self._varying) == 1:
            return np.asarray(np.exp(np.interp(queries[:, 0], self._points[:, 0], self._logs)))
        parts = np.array_split(queries, -(-len(queries) // _BATCH) or 1)
        return np.asarray(np.exp(np.concatenate([self._local(part) for part in parts])))

    def _local(self, queries: Floats) -> Floats:
        count = min(_NEIGHBOURS, len(self._points))
        distance, near = self._tree.query(queries, k=count)
        reach = distance[:, -1:] + 1e-9
        weight = np.maximum(1 - (distance / reach) ** 3, 1e-3) ** 3
        offsets = self._points[near] - queries[:, None, :]
        design = np.concatenate([np.ones((*offsets.shape[:2], 1)), offsets], axis=2)
        weighted = weight[..., None] * design
        normal = np.einsum("nki,nkj->nij", weighted, design)
        slopes = np.arange(1, design.shape[2])
        normal[:, slopes, slopes] += 1e-3 * weight.sum(axis=1)[:, None]  # neighbours may lie in a plane
        right = np.einsum("nki,nk->ni", weighted, self._logs[near])
        fitted = np.linalg.solve(normal, right[..., None])[:, 0, 0]
        # A fit to neighbours on one side must not run away from them.
        values = self._logs[near]
        return np.asarray(np.clip(fitted, values.min(axis=1) - 0.1, values.max(axis=1) + 0.1))


class FittedRoofline(Estimator):
    """The roofline with a fixed cost and an efficiency: seconds = fixed + roofline / efficiency."""

    name: ClassVar[str] = "roofline"

    def _learn(self, sizes: Floats, roofline: Floats, seconds: Floats) -> None:
        from scipy.optimize import nnls

        # Relative errors count, so that small sizes weigh as much as large ones.
        design = np.stack([1 / seconds, roofline / seconds], axis=1)
        scale = design.max(axis=0)
        (self._fixed, self._slope), _ = nnls(design / scale, np.ones(len(seconds)))
        self._fixed, self._slope = self._fixed / scale[0], self._slope / scale[1]

    def predict(self, sizes: Floats, roofline: Floats) -> Floats:
        return np.asarray(self._fixed + self._slope * roofline)

    def _ratio(self, sizes: Floats) -> Floats:
        raise NotImplementedError  # `predict` has no need of it


class _Trees(Estimator):
    """Trees of scikit-learn over the logarithms of sizes."""

    def _learn(self, sizes: Floats, roofline: Floats, seconds: Floats) -> None:
        self._model = self._regressor()
        self._model.fit(_logarithms(sizes), np.log(seconds / roofline))

    def _ratio(self, sizes: Floats) -> Floats:
        return np.asarray(np.exp(self._model.predict(_logarithms(sizes))))

    @abstractmethod
    def _regressor(self) -> Any: ...


class RandomForest(_Trees):
    """Averaged trees. Source of the choice: Agrawal et al., "Vidur", MLSys 2024."""

    name: ClassVar[str] = "forest"

    def _regressor(self) -> Any:
        from sklearn.ensemble import RandomForestRegressor

        return RandomForestRegressor(n_estimators=60, random_state=0, n_jobs=1)


class GradientBoosting(_Trees):
    """Trees that correct each other's errors."""

    name: ClassVar[str] = "boosting"

    def _regressor(self) -> Any:
        from sklearn.ensemble import HistGradientBoostingRegressor

        return HistGradientBoostingRegressor(
            max_iter=300, max_leaf_nodes=31, min_samples_leaf=5, learning_rate=0.1, random_state=0
        )


ESTIMATORS: dict[str, Callable[[], Estimator]] = {
    kind.name: kind for kind in (Interpolation, FittedRoofline, RandomForest, GradientBoosting)
}
"""By name, the quickest first."""


def held_out(
    make: Callable[[], Estimator], sizes: Floats, roofline: Floats, seconds: Floats, folds: int = 10
) -> Floats:
    """Relative errors, signed, at sizes that were held out, shape (rows,).

    Equal sizes are held out together: an estimator must not see the size that it is asked for.

    Raises:
        ValueError: there are fewer than three different sizes.
    """
    _, place = np.unique(sizes, axis=0, return_inverse=True)
    place = place.reshape(-1)
    distinct = int(place.max()) + 1
    if distinct < 3:
        raise ValueError("fewer than three different sizes: nothing can be held out")
    folds = min(folds, distinct)
    dealt = np.arange(distinct) % folds
    np.random.default_rng(0).shuffle(dealt)
    fold = dealt[place]
    errors = np.zeros(len(seconds))
    for number in range(folds):
        out = fold == number
        model = make().fit(sizes[~out], roofline[~out], seconds[~out])
        errors[out] = model.predict(sizes[out], roofline[out]) / seconds[out] - 1
    return errors


def _logarithms(sizes: Floats) -> Floats:
    """Coordinates in which equal ratios are equal distances; nothing is well apart from something."""
    return np.asarray(np.log2(sizes + 1.0) + 2.0 * (sizes > 0))
