"""An estimator for each operator: the one that does best at sizes that it was not shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from triptych.cost.estimators import ESTIMATORS, Estimator, held_out
from triptych.cost.loads import Floats
from triptych.cost.tables import Fit

BEST = "best"
"""As a forced estimator: all are compared, which takes minutes; by default the two quick ones are."""
_QUICK = ("interpolation", "roofline")
_TELLING = 6
"""Sizes in one dimension from which held-out ones tell estimators apart. Of fewer, those that are left lie
too far away, and the estimator that passes through what was measured is trusted."""
_GOOD = 0.05
"""Median held-out error below which no other estimator is tried: what it could gain is within the noise."""


@dataclass(frozen=True)
class Samples:
    """Measurements of one operator: sizes of shape (rows, dimensions), the others of shape (rows,)."""

    sizes: Floats
    roofline: Floats
    seconds: Floats


def choose(samples: Samples, forced: str | None = None) -> tuple[Estimator, Floats]:
    """The estimator that does best at held-out sizes, not fitted yet, and its errors there.

    Interpolation comes first; others are tried only where it leaves something to gain.

    Args:
        samples: measurements.
        forced: the name of one; BEST: of all; None: of the quick ones.
    """

    def errors(name: str) -> Floats:
        return held_out(ESTIMATORS[name], samples.sizes, samples.roofline, samples.seconds)

    distinct = np.unique(samples.sizes, axis=0)
    if len(distinct) < 3:
        return ESTIMATORS[forced if forced in ESTIMATORS else "interpolation"](), np.zeros(0)
    best = forced if forced in ESTIMATORS else "interpolation"
    found = errors(best)
    few = len(distinct) < _TELLING and np.count_nonzero(np.ptp(distinct, axis=0)) == 1
    if forced not in ESTIMATORS and not few and np.median(np.abs(found)) > _GOOD:
        for name in ESTIMATORS if forced == BEST else _QUICK:
            tried = errors(name) if name != best else found
            if np.median(np.abs(tried)) < np.median(np.abs(found)):
                best, found = name, tried
    return ESTIMATORS[best](), found


class Fitter:
    """Fits estimators and keeps how well they did.

    Args:
        forced: name of the estimator for all; None: for each operator the better of the quick ones; BEST: the
            best of all.
    """

    def __init__(self, forced: str | None = None) -> None:
        self._forced = forced
        self.fits: list[Fit] = []

    def fitted(self, name: str, source: str, samples: Samples) -> Estimator:
        """The estimator of one operator, fitted to all samples of it."""
        make, errors = choose(samples, self._forced)
        size = np.abs(errors) if len(errors) else np.array([np.nan])
        self.fits.append(
            Fit(
                operator=name,
                source=source,
                estimator=make.name,
                rows=len(samples.seconds),
                median_error=float(np.median(size)),
                p90_error=float(np.percentile(size, 90)),
                bias=float(np.mean(errors)) if len(errors) else float("nan"),
            )
        )
        return make.fit(samples.sizes, samples.roofline, samples.seconds)


def averaged(sizes: Floats, seconds: Floats) -> tuple[Floats, Floats]:
    """Measurements at equal sizes as one: sizes rising."""
    distinct, place = np.unique(sizes, axis=0, return_inverse=True)
    place = place.reshape(-1)
    return distinct, np.bincount(place, seconds) / np.bincount(place)
