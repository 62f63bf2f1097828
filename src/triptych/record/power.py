"""Energy from utilisation.

Power rises linearly from idle to peak with utilisation, the model of Fan, Weber and Barroso ("Power
provisioning for a warehouse-sized computer", ISCA 2007). Vidur's energy model likewise derives a GPU's power
from MFU. But a decode batch has low MFU and yet keeps memory busy; so utilisation here is that of whichever
is used more, compute or memory bandwidth.
"""

from __future__ import annotations

import numpy as np

from triptych.record.logs import Floats


def active_seconds(
    flops: Floats, moved: Floats, seconds: Floats, *, peak_flops: float, bandwidth: float
) -> float:
    """Sum over batches of utilisation x duration: the time at full utilisation that they amount to.

    Args:
        flops: of each batch, shape (batches,).
        moved: bytes that each batch must at least read from device memory, shape (batches,).
        seconds: each batch took, shape (batches,); none is more than fully used.
        peak_flops: FLOP/s.
        bandwidth: bytes/s.
    """
    return float(np.minimum(np.maximum(flops / peak_flops, moved / bandwidth), seconds).sum())


def energy(idle_watts: float, peak_watts: float, horizon: float, active: float) -> float:
    """Joules over `horizon` seconds, `active` seconds' worth of which at full utilisation."""
    return idle_watts * horizon + (peak_watts - idle_watts) * min(active, horizon)
