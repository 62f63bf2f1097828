"""How long clients wait."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from triptych.spec.workload import Aborts
from triptych.workload.streams import stream


def draw_aborts(spec: Aborts, n: int, seed: int) -> NDArray[np.float64]:
    """Seconds from arrival to the client going away, [n]; inf where it stays."""
    after = stream(seed, "abort times").exponential(spec.after, n)
    after[stream(seed, "abort shares").random(n) >= spec.share] = np.inf
    return after
