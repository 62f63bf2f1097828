"""How long one operator takes: the slower of its arithmetic and its memory traffic, plus its launch.

Source of the model: Williams, Waterman, Patterson, "Roofline: An Insightful Visual Performance Model for
Multicore Architectures", 2009; what share of each peak kernels reach is data, `Device.efficiency`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from triptych.cost.loads import Floats, Load
from triptych.cost.operators import Operator
from triptych.spec.base import SpecError
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


@dataclass(frozen=True, slots=True)
class AttentionTime:
    """Seconds of attention = fixed + max(pairs x per_pair, kv x per_kv + units x per_unit)."""

    fixed: float
    per_pair: float
    per_kv: float
    per_unit: float

    def __mul__(self, times: float) -> AttentionTime:
        return AttentionTime(
            self.fixed * times, self.per_pair * times, self.per_kv * times, self.per_unit * times
        )

    def seconds(self, units: float, pairs: float, kv: float) -> float:
        """Seconds for one load; nothing takes no time."""
        if not units:
            return 0.0
        return self.fixed + max(pairs * self.per_pair, kv * self.per_kv + units * self.per_unit)


NO_ATTENTION = AttentionTime(0.0, 0.0, 0.0, 0.0)


class OperatorTimes(Protocol):
    """Where operator times come from: the roofline, or something measured."""

    def seconds(self, operator: Operator, load: Load) -> Floats:
        """Seconds of one run of an operator, for each element of the load; 0 where there is no load."""
        ...

    def attention(self, operator: Operator) -> AttentionTime:
        """Seconds of one run of an attention operator as a function of its load."""
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
