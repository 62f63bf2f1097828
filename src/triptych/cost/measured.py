"""Operator times that were measured, and the roofline's where they were not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from triptych.cost.attention import AttentionTable
from triptych.cost.linear import AttentionTime
from triptych.cost.loads import Floats, Load
from triptych.cost.operators import Operator
from triptych.cost.roofline import Roofline
from triptych.cost.source import MEASURED, ROOFLINE
from triptych.cost.tables import Curve, Tables
from triptych.spec.calibration import Calibration


class MeasuredTimes:
    """Looks operators up in tables.

    Args:
        tables: of the model under the pool's parallelism.
        roofline: of the device, for what the tables lack and for sizes beyond them.
    """

    def __init__(self, tables: Tables, roofline: Roofline) -> None:
        self.tables = tables
        self._roofline = roofline

    def seconds(self, operator: Operator, load: Load) -> Floats:
        """Seconds of one run of an operator, for each element of the load; 0 where there is no load."""
        curve = self.tables.curves.get(operator.name)
        if curve is None:
            return self._other(operator, load)
        units = np.asarray(load.units, dtype=np.float64)
        sizes = self._sizes(operator, units)
        seconds = curve.at(np.maximum(sizes, curve.knots[0]), lambda at: self._ideal(operator, at))
        return np.where(units > 0, seconds, 0.0)

    def source(self, operator: Operator, load: Load) -> NDArray[np.int64]:
        """MEASURED, INTERPOLATED or ROOFLINE, for each element of the load."""
        curve = self.tables.curves.get(operator.name)
        if curve is None:
            code = MEASURED if operator.name in self.tables.covered else ROOFLINE
            return np.full(np.shape(load.units), code)
        return curve.source(self._sizes(operator, np.asarray(load.units, dtype=np.float64)))

    def deviation(self, operator: str) -> float:
        """Of an operator's estimator at held-out sizes; of attention, the worst of its grids.

        The median absolute error is that of a normal distribution whose standard deviation is 1.48 times it.
        """
        found = [fit.median_error for fit in self.tables.fits if self._is_of(fit.operator, operator)]
        return 1.4826 * max((each for each in found if each == each), default=0.0)

    def _is_of(self, fitted: str, operator: str) -> bool:
        return operator in fitted.split("+") or (operator not in self.tables.curves and "attention" in fitted)

    def attention(self, operator: Operator) -> AttentionTime:
        """The roofline's line, for attention that is in no table."""
        return self._roofline.attention(operator)

    def table(self, layers: float) -> AttentionTable | None:
        """Attention of the language model's layers, where it was measured."""
        tables = self.tables
        if tables.prefill is None or tables.decode is None:
            return None
        return AttentionTable(
            tables.prefill,
            tables.decode,
            tables.joint,
            unequal=tables.unequal,
            layers=layers,
            together=tables.together,
        )

    def knows_images(self) -> bool:
        """Whether attention of the vision tower was measured, over the patches of one image."""
        return any(
            name in self.tables.curves for name in ("vision full attention", "vision window attention")
        )

    def host(self) -> Calibration:
        """Host time of an iteration as measured.

        Where the profile has none it is taken to be hidden behind the device, as in engines that schedule the
        next batch while one runs.
        """
        return Calibration(iteration=self.tables.iteration, sequence=self.tables.sequence)

    def curve(self, name: str) -> Curve | None:
        """Of an operator, over its units."""
        return self.tables.curves.get(name)

    def _other(self, operator: Operator, load: Load) -> Floats:
        if operator.name in self.tables.covered:
            return np.zeros(np.broadcast(load.units, load.kv).shape)
        return self._roofline.seconds(operator, load)

    def _sizes(self, operator: Operator, units: Floats) -> Floats:
        return units * operator.traffic if operator.collective is not None else units

    def _ideal(self, operator: Operator, sizes: Floats) -> Floats:
        if operator.collective is not None:
            return operator.collective.seconds(sizes)
        none = np.zeros(1)
        return self._roofline.seconds(operator, Load(sizes, none, none))
