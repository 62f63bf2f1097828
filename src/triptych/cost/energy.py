"""Energy: power between idle and peak by utilisation.

Power is taken to be linear in utilisation, as Fan, Weber and Barroso found for whole servers ("Power
Provisioning for a Warehouse-sized Computer", ISCA 2007). A device's utilisation is that of whatever
bounds it: its FLOP/s or its memory bandwidth.
"""

from __future__ import annotations

import numpy as np

from triptych.cost.loads import Floats
from triptych.spec.device import Device


def watts(device: Device, utilisation: Floats | float) -> Floats:
    """Power of one device at a utilisation between 0 and 1 (more counts as 1)."""
    busy = np.clip(np.asarray(utilisation, dtype=np.float64), 0.0, 1.0)
    return np.asarray(device.idle_watts + (device.peak_watts - device.idle_watts) * busy)


def joules(
    device: Device, devices: int, peak_flops: float, seconds: Floats, flops: Floats, moved: Floats
) -> Floats:
    """Energy of rows of work.

    Args:
        device: one of the instance's.
        devices: of the instance.
        peak_flops: FLOP/s of one device in the precision of its work.
        seconds: of each row, shape (rows,).
        flops: of each row over all devices, shape (rows,).
        moved: bytes of each row over all devices, shape (rows,).

    Returns:
        Joules over all devices, shape (rows,); 0 for rows that take no time.
    """
    capacity = np.maximum(seconds, np.finfo(np.float64).tiny) * devices
    utilisation = np.maximum(flops / peak_flops, moved / device.bandwidth) / capacity
    return np.asarray(seconds * devices * watts(device, utilisation))


def idle_joules(device: Device, devices: int, seconds: float) -> float:
    """Energy of devices that do nothing for a while."""
    return device.idle_watts * devices * seconds
