"""The run record: all that happened, as columns in memory. Every producer makes one; all metrics read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from triptych.policy import Status
from triptych.record.columns import DERIVED_REQUEST_COLUMNS, REQUEST_COLUMNS
from triptych.record.itl import TokenGaps
from triptych.record.latency import request_latencies
from triptych.record.logs import (
    Column,
    Columns,
    Floats,
    InstanceInfo,
    LaneLog,
    Spans,
    Transfers,
    check_columns,
)

STATUSES: tuple[str, ...] = tuple(status.value for status in Status)
"""`Run.requests["status"]` holds positions in this tuple, as int8; `Run.column("status")` their names."""
FINISHED = STATUSES.index(Status.FINISHED.value)
REJECTED = STATUSES.index(Status.REJECTED.value)

Producer = Literal["simulate", "serve", "bench"]
BatchLog = Literal["all", "sample", "off"]
Bound = tuple[str, str, float]
"""A bound of the SLO: (metric, statistic, seconds), as `Slo.bounds()` gives them."""


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """One run.

    Raises:
        ValueError: a column is missing or has another length than the rest.
    """

    requests: Columns
    """REQUEST_COLUMNS, shape (requests,), ordered by id = 0, 1, 2, ...; `status` as int8 positions in
    STATUSES. It may bring DERIVED_REQUEST_COLUMNS too, which are then not computed: those of a run that
    was read, or measured from outside. A request with arrival NaN never came (the run was interrupted)."""
    lanes: Sequence[LaneLog]
    spans: Spans
    instances: Sequence[InstanceInfo]
    """Ordered by id = 0, 1, 2, ..."""
    horizon: float
    """Seconds from the begin of the run to its end."""
    transfers: Transfers | None = None
    """None where they were not logged."""
    deployment_yaml: str = ""
    workload_yaml: str = ""
    slo: Sequence[Bound] = ()
    producer: Producer = "simulate"
    interrupted: bool = False
    batch_log: BatchLog = "all"
    """Which rows the lanes hold; with fewer than all, utilisation cannot be computed from them."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Plain data on how the run was made: version, wall seconds, seed, ..."""

    def __post_init__(self) -> None:
        check_columns("requests", self.requests, REQUEST_COLUMNS)
        status = self.requests["status"]
        if len(status) and not (status.min() >= 0 and status.max() < len(STATUSES)):
            raise ValueError("requests: a status is no position in STATUSES")

    def __len__(self) -> int:
        """Requests."""
        return len(self.requests["id"])

    def __repr__(self) -> str:
        instances = f"{len(self.instances):,} instance{'' if len(self.instances) == 1 else 's'}"
        finished = f"{int(self.finished.sum()):,} of {len(self):,} requests finished"
        return f"<Run by {self.producer}: {finished}, {instances}, {self.horizon:.6g} s>"

    def column(self, name: str) -> Column:
        """A raw or derived column of the requests, shape (requests,); `status` as names.

        Raises:
            KeyError: there is no such column.
        """
        if name == "status":
            return np.array(STATUSES)[self.requests["status"]]
        if name in self.requests:
            return self.requests[name]
        return (self.inter_token if name.startswith("itl_") else self.latencies)[name]

    @property
    def finished(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Which requests got all their tokens."""
        return np.asarray(self.requests["status"] == FINISHED)

    @cached_property
    def latencies(self) -> dict[str, Floats]:
        """The derived columns, but for those of inter-token latency."""
        failed = np.asarray(self.requests["status"] == REJECTED)
        return request_latencies(self.requests, self.transfers, self.finished, failed)

    @cached_property
    def token_gaps(self) -> TokenGaps:
        """The gaps between tokens."""
        # Measured from outside there are no lanes, and a span for every later token that was seen: no token
        # comes at the end without one.
        ends_with_token = self.finished if self.lanes else np.zeros(len(self), dtype=bool)
        return TokenGaps(
            self.lanes, self.spans, self.requests["first_token"], self.requests["end"], ends_with_token
        )

    @cached_property
    def inter_token(self) -> dict[str, Floats]:
        """The derived columns of inter-token latency: itl_p50, itl_p90, itl_p99, itl_max."""
        names = [name for name in DERIVED_REQUEST_COLUMNS if name.startswith("itl_")]
        shares = [1.0 if name == "itl_max" else int(name.removeprefix("itl_p")) / 100 for name in names]
        return dict(zip(names, self.token_gaps.percentiles(shares), strict=True))
