"""Reading a trace: the file by its format, then the slice that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from triptych.spec.base import SpecError
from triptych.spec.workload import Trace
from triptych.workload.azure import read_azure
from triptych.workload.mooncake import read_mooncake
from triptych.workload.parquet import read_parquet
from triptych.workload.requests import Requests

_READERS: dict[str, Callable[[Path], Requests]] = {
    "azure": read_azure,
    "mooncake": read_mooncake,
    "parquet": read_parquet,
}


def read_trace(spec: Trace, *, file: str | Path | None = None) -> Requests:
    """The requests of a trace between `start` and `stop`, counted from `start`; at least one.

    Args:
        spec: which trace, and which part of it.
        file: the workload file that names it, for errors and for a relative path.

    Raises:
        SpecError: the trace is missing, holds something wrong, or nothing in the slice.
    """
    requests = _READERS[spec.format](spec.locate(file))
    stop = np.inf if spec.stop is None else spec.stop
    first, end = np.searchsorted(requests.arrival, (spec.start, stop))
    if first == end:
        raise SpecError(
            "trace",
            f"no request comes between start and stop; the trace runs from {requests.arrival[0]:g} s "
            f"to {requests.arrival[-1]:g} s",
            file=file,
        )
    if spec.limit is not None:
        end = min(end, first + spec.limit)
    taken = requests.take(slice(int(first), int(end)))
    return replace(taken, arrival=taken.arrival - spec.start)
