"""Reading a trace: the file by its format, then the slice that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from triptych.spec.base import SpecError
from triptych.spec.workload import Trace
from triptych.workload.azure import read_azure
from triptych.workload.bailian import read_bailian
from triptych.workload.mooncake import read_mooncake
from triptych.workload.parquet import read_parquet
from triptych.workload.requests import Requests
from triptych.workload.window import Window

_READERS: dict[str, Callable[[Path, Window], Requests]] = {
    "azure": read_azure,
    "bailian": read_bailian,
    "mooncake": read_mooncake,
    "parquet": read_parquet,
}


def read_trace(spec: Trace, *, limit: int | None = None, file: str | Path | None = None) -> Requests:
    """The requests of a trace between `start` and `stop`, counted from `start`; at least one.

    No more of the file is read, and none of it checked, than holds them.

    Args:
        spec: which trace, and which part of it.
        limit: most requests that are of use, beside the limit of the declaration.
        file: the workload file that names it, for errors and for a relative path.

    Raises:
        SpecError: the trace is missing, holds something wrong, or nothing in the slice.
    """
    stop = np.inf if spec.stop is None else spec.stop
    limit = min((most for most in (spec.limit, limit) if most is not None), default=None)
    requests = _READERS[spec.format](spec.locate(file), Window(spec.start, stop, limit))
    first, end = np.searchsorted(requests.arrival, (spec.start, stop))
    if first == end:
        raise SpecError(
            "trace",
            f"no request comes between start and stop; the trace runs from {requests.arrival[0]:g} s "
            f"to {requests.arrival[-1]:g} s",
            file=file,
        )
    if limit is not None:
        end = min(end, first + limit)
    taken = requests.take(slice(int(first), int(end)))
    return replace(taken, arrival=taken.arrival - spec.start)
