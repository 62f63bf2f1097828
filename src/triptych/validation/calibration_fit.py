"""The least squares behind `calibrate`: what host and operators of measured iterations really took.

    seconds = iteration + sequence x sequences + image x images + sum over classes of factor x predicted

Errors count relative to the iteration's length, so that short and long ones weigh the same. The length is
that of the fit: dividing by the measured one would favour what came out short by chance. Outliers count
linearly (Huber, "Robust Estimation of a Location Parameter", 1964). Every coefficient has a prior, a normal
distribution around what is predicted without: what the run does not tell stays as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from triptych.record.logs import Floats
from triptych.spec.calibration import Calibration, Factors

CLASSES: tuple[str, ...] = tuple(Factors.model_fields)

_HUBER = 1.345
"""Standard deviations from which errors count linearly: 95 % efficient on normal ones (Huber)."""
_NORMAL = 1.4826
"""Standard deviation of a normal distribution by its median absolute deviation."""
_ROUNDS = 100
_SETTLED = 1e-7
"""Change of all coefficients, in standard deviations of their priors, at which the fit is done."""
_LEAST_NOISE = 1e-3
_FACTOR_SPREAD = 1.0
"""Standard deviation of a factor's prior around 1; rooflines are off by so much."""
_UNSURE_SPREAD = 0.25
"""That of a factor which the run does not tell."""
_LEAST_FACTOR = 0.01
"""Less is no efficiency but a class that the time of something else was put down to."""
_SURE = 0.25
"""Standard error of a factor from which on the run is taken not to tell it."""
_PLAINLY = 2.0
"""Standard errors by which two factors differ that are not the same."""
_LEAST_ERROR = 0.01
_MOST_ROWS = 400
"""A prediction's own error, unlike noise, does not average out: for what can be told apart, the noise is
never below the one, and rows beyond the other do not count."""


@dataclass(frozen=True, eq=False)
class Observed:
    """Rows of a measured batch log and what is predicted for them; arrays of shape (rows,)."""

    seconds: Floats
    """Of all iterations of the row, as are the others."""
    iterations: Floats
    sampled: Floats
    """Sequences that got a token."""
    images: Floats
    predicted: Mapping[str, Floats]
    """Seconds of each of CLASSES, uncalibrated and without host time."""
    host: tuple[Floats, Floats]
    """Host time of an iteration and of a sequence as predicted without a calibration."""

    def __len__(self) -> int:
        return len(self.seconds)

    def take(self, rows: npt.NDArray[Any]) -> Observed:
        """Some of the rows: positions or a mask."""
        return Observed(
            self.seconds[rows],
            self.iterations[rows],
            self.sampled[rows],
            self.images[rows],
            {name: part[rows] for name, part in self.predicted.items()},
            (self.host[0][rows], self.host[1][rows]),
        )

    def uncalibrated(self) -> Floats:
        """Predicted seconds without a calibration."""
        operators = sum(self.predicted.values(), np.zeros(len(self)))
        return operators + self.host[0] * self.iterations + self.host[1] * self.sampled

    def calibrated(self, by: Calibration) -> Floats:
        """Predicted seconds with one."""
        seconds: Floats = by.iteration * self.iterations
        seconds = seconds + by.sequence * self.sampled + by.image * self.images
        for name, part in self.predicted.items():
            seconds = seconds + getattr(by.factors, name) * part
        return seconds


@dataclass(frozen=True)
class Fit:
    """What a run tells of its iterations."""

    calibration: Calibration
    """Host time of iterations, and factors; the rest is neutral."""
    absent: tuple[str, ...]
    """Classes that are not in the run; their factor is 1."""
    small: tuple[str, ...]
    """Classes of too little time to tell; their factor is 1."""
    shared: tuple[tuple[str, ...], ...]
    """Groups of classes that the run does not tell apart; each has one factor."""
    unsure: tuple[str, ...]
    """Classes that the run does not tell from host time; their factor stays near 1."""
    images: bool
    """Whether any were encoded; if not, host time of an image is not known."""


def fit(observed: Observed) -> Fit:
    """Fits all coefficients.

    Args:
        observed: rows of which every one took time.
    """
    totals = {name: float(observed.predicted[name].sum()) for name in CLASSES}
    absent = tuple(name for name in CLASSES if totals[name] <= 0)
    present = [name for name in CLASSES if name not in absent]
    apart = _solve(observed, [(name,) for name in present])
    weighted = {name: observed.predicted[name] / apart.seconds for name in present}
    noise, rows = max(apart.noise, _LEAST_ERROR), min(len(observed), _MOST_ROWS)
    small = tuple(name for name in present if noise > _SURE * _rms(weighted[name]) * np.sqrt(rows))
    groups, unsure = _tell_apart(observed, [name for name in present if name not in small], small, rows)
    solved = _solve(observed, groups, fixed=small, unsure=unsure)
    factors = dict.fromkeys(CLASSES, 1.0)
    for group, factor in zip(groups, solved.coefficients[3:].tolist(), strict=True):
        factors.update(dict.fromkeys(group, factor))
    iteration, sequence, image = solved.coefficients[:3].tolist()
    images = bool(observed.images.any())
    calibration = Calibration(
        iteration=iteration, sequence=sequence, image=image if images else 0.0, factors=Factors(**factors)
    )
    shared = tuple(group for group in groups if len(group) > 1)
    return Fit(calibration, absent, small, shared, unsure, images=images)


def relative_errors(predicted: Floats, measured: Floats) -> Floats:
    """(predicted - measured) / measured."""
    return (predicted - measured) / measured


@dataclass(frozen=True, eq=False)
class _Solution:
    coefficients: Floats
    """Iteration, sequence, image, then a factor for each group."""
    seconds: Floats
    """Of each row, as fitted."""
    noise: float
    """Standard deviation of relative errors, without outliers."""
    terms: _Terms

    def spread(self, noise: float, rows: int) -> Floats:
        """Covariance of the coefficients, as if there were so many rows with so much noise."""
        scaled = self.terms.columns * self.terms.spread / self.seconds[:, None]
        known = scaled.T @ scaled * (rows / len(self.seconds)) / noise**2 + np.eye(scaled.shape[1])
        return np.asarray(np.linalg.inv(known) * np.outer(self.terms.spread, self.terms.spread))


@dataclass(frozen=True, eq=False)
class _Terms:
    """What the coefficients multiply: shape (rows, coefficients); their priors and least values."""

    columns: Floats
    prior: Floats
    spread: Floats
    least: Floats


def _terms(observed: Observed, groups: Sequence[Sequence[str]], unsure: Sequence[str] = ()) -> _Terms:
    host = np.stack([observed.iterations, observed.sampled, observed.images], axis=1)
    priors = np.array([observed.host[0].mean(), observed.host[1].mean(), 0.0])
    # As wide as if the whole of a usual iteration were this coefficient's.
    usual = float(np.median(observed.seconds / observed.iterations))
    counts = [_usual(column) for column in host.T]
    widths = np.maximum(usual / np.array(counts), priors)
    of_groups = [
        sum((observed.predicted[name] for name in group), np.zeros(len(observed))) for group in groups
    ]
    ones = np.ones(len(groups))
    loose = [_UNSURE_SPREAD if set(group) <= set(unsure) else _FACTOR_SPREAD for group in groups]
    return _Terms(
        columns=np.column_stack([host, *of_groups]),
        prior=np.concatenate([priors, ones]),
        spread=np.concatenate([widths, loose]),
        least=np.concatenate([np.zeros(3), _LEAST_FACTOR * ones]),
    )


def _solve(
    observed: Observed,
    groups: Sequence[Sequence[str]],
    *,
    fixed: Sequence[str] = (),
    unsure: Sequence[str] = (),
) -> _Solution:
    """Weighted least squares again and again, until weights and coefficients agree."""
    terms = _terms(observed, groups, unsure)
    base = sum((observed.predicted[name] for name in fixed), np.zeros(len(observed)))
    coefficients = terms.prior
    seconds, noise = observed.seconds, _LEAST_NOISE
    trust = np.ones(len(observed))
    floor = 1e-3 * float(np.median(observed.seconds))
    for number in range(_ROUNDS):
        scaled = terms.columns * terms.spread / seconds[:, None]
        missing = (observed.seconds - base - terms.columns @ terms.prior) / seconds
        if number == 0:
            noise = _scale(missing)
        known = (scaled * trust[:, None]).T @ scaled / noise**2 + np.eye(len(coefficients))
        wanted = (scaled * trust[:, None]).T @ missing / noise**2
        step = _bounded(known, wanted, (terms.least - terms.prior) / terms.spread)
        before = coefficients
        coefficients = np.maximum(terms.prior + terms.spread * step, terms.least)  # but for rounding
        # Where outliers leave nothing at first, a row must not come out as taking no time.
        seconds = np.maximum(base + terms.columns @ coefficients, floor)
        errors = observed.seconds / seconds - 1
        noise = _scale(errors)
        trust = np.minimum(1.0, _HUBER * noise / np.maximum(np.abs(errors), 1e-300))
        if np.max(np.abs(coefficients - before) / terms.spread) < _SETTLED:
            break
    return _Solution(coefficients, seconds, noise, terms)


def _bounded(known: Floats, wanted: Floats, least: Floats) -> Floats:
    """The x >= least with the smallest x' known x / 2 - wanted' x."""
    from scipy.optimize import nnls

    root = np.linalg.cholesky(known).T
    found, _ = nnls(root, np.linalg.solve(root.T, wanted) - root @ least)
    return np.asarray(least + found)


def _tell_apart(
    observed: Observed, names: Sequence[str], small: Sequence[str], rows: int
) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Groups of classes that can have a factor of their own, and classes that cannot be told from host time.

    The class whose factor is known least is joined with the one that it trades time with most, until every
    factor is known well enough, or is plainly another.
    """
    groups: list[tuple[str, ...]] = [(name,) for name in names]
    told: list[tuple[str, ...]] = []
    unsure: list[tuple[str, ...]] = []
    while True:
        solved = _solve(observed, groups, fixed=small)
        errors = solved.spread(max(solved.noise, _LEAST_ERROR), rows)
        own = np.sqrt(np.diag(errors))
        left = [place for place, group in enumerate(groups, start=3) if group not in [*told, *unsure]]
        worst = max(left, key=lambda place: own[place], default=0)
        if not worst or own[worst] <= _SURE:
            return groups, tuple(name for group in unsure for name in group)
        group, factor = groups[worst - 3], solved.coefficients[worst]
        trades = errors[worst] / own
        trades[worst] = 0.0
        partner = int(np.argmin(trades))
        if partner < 3 or trades[partner] >= 0:
            (told if abs(factor - 1) > _PLAINLY * own[worst] else unsure).append(group)
            continue
        between = np.sqrt(own[worst] ** 2 + own[partner] ** 2 - 2 * errors[worst, partner])
        if abs(factor - solved.coefficients[partner]) > _PLAINLY * between:
            told.append(group)
            continue
        joined = tuple(name for name in CLASSES if name in group + groups[partner - 3])
        groups = [other for other in groups if not set(other) & set(joined)] + [joined]
        unsure = [other for other in unsure if other in groups]


def _usual(column: Floats) -> float:
    """Of what rows have some of, how much; 1 if none has any."""
    some = column[column > 0]
    return float(np.median(some)) if len(some) else 1.0


def _scale(errors: Floats) -> float:
    return max(_NORMAL * float(np.median(np.abs(errors))), _LEAST_NOISE)


def _rms(values: Floats) -> float:
    return float(np.sqrt(np.mean(values**2)))
