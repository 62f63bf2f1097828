"""What a limit on requests in flight held back at the clients: time that no latency holds."""

from __future__ import annotations

from typing import Any

import numpy as np

from triptych.record.logs import Column, Floats


def held_back(due: Floats, arrival: Column) -> dict[str, Any]:
    """How many requests waited at their clients, and for how long on average, as plain data.

    Args:
        due: when each request was to be sent, seconds, shape (requests,).
        arrival: when it could be; NaN: it never came.
    """
    waits = arrival - due
    waits = waits[waits > 0]
    return {"requests": len(waits), "mean_seconds": float(np.mean(waits)) if len(waits) else 0.0}
