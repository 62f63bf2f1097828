"""How long one operator takes: the slower of its arithmetic and its memory traffic, plus its launch.

Source of the model: Williams, Waterman, Patterson, "Roofline: An Insightful Visual Performance Model for
Multicore Architectures", 2009; what share of each peak kernels reach is data, `Device.efficiency`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from triptych.cost.linear import AttentionTime, TextAttention
from triptych.cost.loads import Floats, Load
from triptych.cost.operators import Operator
from triptych.cost.source import ROOFLINE
from triptych.spec.base import SpecError
from triptych.spec.calibration import Calibration
from triptych.spec.device import Device, Precision

_WIDER: dict[Precision, tuple[Precision, ...]] = {
    "fp32": ("fp32",),
    "bf16": ("bf16", "fp16", "fp32"),
    "fp16": ("fp16", "bf16", "fp32"),
    "fp8": ("fp8",),
    "int8": ("int8",),
    "int4": ("bf16", "fp16", "fp32"),
}
"""In which precision a device works, the first that it has: 16-bit formats stand in for each other, and
4-bit weights are widened before they are multiplied."""


def peak_flops(
    device: Device, precision: Precision, *, field: str = "", file: str | Path | None = None
) -> float:
    """Dense FLOP/s of a device on operands of this precision.

    Raises:
        SpecError: the device has neither the precision nor one that can stand in for it.
    """
    for candidate in _WIDER[precision]:
        if candidate in device.flops:
            return device.flops[candidate]
    raise SpecError(
        field, f"{device.name} has no {precision}; use one of {', '.join(device.flops)}", file=file
    )


class OperatorTimes(Protocol):
    """Where operator times come from: the roofline, or something measured."""

    def seconds(self, operator: Operator, load: Load) -> Floats:
        """Seconds of one run of an operator, for each element of the load; 0 where there is no load."""
        ...

    def source(self, operator: Operator, load: Load) -> NDArray[np.int64]:
        """Where each element of `seconds` comes from: MEASURED, INTERPOLATED or ROOFLINE."""
        ...

    def deviation(self, operator: str) -> float:
        """Standard deviation of the logarithm of its measured time at sizes that were not measured."""
        ...

    def attention(self, operator: Operator) -> AttentionTime:
        """Seconds of one run of an attention operator as a function of its load."""
        ...

    def table(self, layers: float) -> TextAttention | None:
        """Attention of so many layers of the language model, where it was measured."""
        ...

    def knows_images(self) -> bool:
        """Whether attention of the vision tower was measured, over the patches of one image."""
        ...

    def host(self) -> Calibration | None:
        """Host time of an iteration, where it is known better than the device's data sheet has it."""
        ...


class Roofline:
    """Operator times from a device's data sheet.

    Args:
        device: peaks, efficiencies and launch overhead.
        field: name of the pool, for errors.
        file: of the deployment, for errors.
    """

    def __init__(self, device: Device, *, field: str = "", file: str | Path | None = None) -> None:
        self._device = device
        self._field = f"{field}.precision.compute" if field else "precision.compute"
        self._file = file

    def seconds(self, operator: Operator, load: Load) -> Floats:
        """Seconds of one run of an operator, for each element of the load; 0 where there is no load.

        Raises:
            SpecError: the device lacks the operator's precision.
        """
        if operator.collective is not None:
            busy = operator.collective.seconds(operator.bytes(load))
        else:
            compute = operator.flops(load) * self._per_flop(operator)
            busy = np.maximum(compute, operator.bytes(load) * self._per_byte)
        return np.where(load.units > 0, busy + self._device.launch_overhead, 0.0)

    def attention(self, operator: Operator) -> AttentionTime:
        """Seconds of one run of an attention operator as a function of its load.

        Raises:
            SpecError: the device lacks the operator's precision.
        """
        return AttentionTime(
            fixed=self._device.launch_overhead,
            per_pair=operator.flop * self._per_flop(operator),
            per_kv=operator.kv * self._per_byte,
            per_unit=operator.traffic * self._per_byte,
        )

    def source(self, operator: Operator, load: Load) -> NDArray[np.int64]:
        """All of it is worked out."""
        return np.full(np.shape(load.units), ROOFLINE)

    def deviation(self, operator: str) -> float:
        """0: nothing was measured."""
        return 0.0

    def table(self, layers: float) -> TextAttention | None:
        """None: nothing was measured."""
        return None

    def knows_images(self) -> bool:
        """False: nothing was measured."""
        return False

    def host(self) -> Calibration | None:
        """None: nothing was measured."""
        return None

    def matmul(
        self, operator: Operator, rows: Floats, inputs: Floats, outputs: Floats, element: float
    ) -> Floats:
        """Seconds of matrix products of other shapes in an operator's precision.

        Args:
            operator: whose precision counts.
            rows: that pass the matrix, shape (n,) as are `inputs` and `outputs`.
            inputs: rows of the matrix.
            outputs: columns of it.
            element: bytes of one of its elements.
        """
        compute = 2 * rows * inputs * outputs * self._per_flop(operator)
        moved = (inputs * outputs * element + 2.0 * rows * (inputs + outputs)) * self._per_byte
        return np.asarray(np.maximum(compute, moved) + self._device.launch_overhead)

    @property
    def _per_byte(self) -> float:
        return 1 / (self._device.bandwidth * self._device.efficiency.memory)

    def _per_flop(self, operator: Operator) -> float:
        if not operator.flop:
            return 0.0
        efficiency = self._device.efficiency
        share = efficiency.attention if operator.kind == "attention" else efficiency.matmul
        peak = peak_flops(self._device, operator.precision, field=self._field, file=self._file)
        return 1 / (peak * share)
