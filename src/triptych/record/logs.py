"""What a run logs beside its requests: instances, their batches, stays in decode sets, transfers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from triptych.record.columns import BATCH_COLUMNS, SPAN_COLUMNS, TRANSFER_COLUMNS, WORK_COLUMNS

Column = npt.NDArray[Any]
Columns = Mapping[str, Column]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class InstanceInfo:
    """One instance of a pool. Figures are of all its devices together where not said otherwise."""

    id: int
    pool: str
    phases: tuple[str, ...]
    device: str
    """Name of the device."""
    devices: int
    lanes: int
    """Independent streams of batches: data ranks x pipeline lanes."""
    kv_blocks: int
    """KV blocks of one lane, or of all lanes if they share them; 0: the instance keeps no KV."""
    block_size: int
    """Tokens in a KV block."""
    peak_flops: float
    """FLOP/s at the compute precision."""
    bandwidth: float
    """Bytes/s of device memory."""
    memory_bytes: float
    weights_bytes: float
    reserved_bytes: float
    """Set aside for activations and for the cache of image embeddings."""
    idle_watts: float
    peak_watts: float
    dollars_per_hour: float
    kv_shared: bool = False
    """Whether the lanes share their KV blocks."""
    kv_block_bytes: float = 0.0
    """Bytes of one KV block of a lane, over all devices that hold a part of it."""


@dataclass(frozen=True)
class LaneLog:
    """The batches of one lane, in time order: BATCH_COLUMNS and WORK_COLUMNS, shape (rows,)."""

    instance: int
    lane: int
    columns: Columns

    def __post_init__(self) -> None:
        check_columns("lane log", self.columns, [*BATCH_COLUMNS, *WORK_COLUMNS])

    def __len__(self) -> int:
        """Rows."""
        return len(self.columns["start"])

    def __getitem__(self, name: str) -> Floats:
        """A column as float64."""
        return self.columns[name].astype(np.float64, copy=False)

    @cached_property
    def seconds(self) -> Floats:
        """How long the iterations of each row take together."""
        count = self["iterations"]
        return count * self["first"] + count * (count - 1) / 2 * self["growth"]

    @cached_property
    def ends(self) -> Floats:
        """When the last iteration of each row ends."""
        return self["start"] + self.seconds

    def decode_times(self) -> Floats:
        """When each decode iteration (one with decodes > 0) ends, shape (decode iterations,)."""
        rows = self.columns["decodes"] > 0
        counts = self.columns["iterations"][rows].astype(np.int64, copy=False)
        before = np.cumsum(counts) - counts
        number = np.arange(1, counts.sum() + 1) - np.repeat(before, counts)
        times = np.repeat(self["start"][rows], counts)
        times += number * np.repeat(self["first"][rows], counts)
        times += number * (number - 1) / 2 * np.repeat(self["growth"][rows], counts)
        return times


@dataclass(frozen=True)
class Spans:
    """Stays of requests in decode sets: SPAN_COLUMNS, shape (spans,); in time order for each request.

    A lane counts its decode iterations 0, 1, 2, ...; a request takes part in join..leave-1 and gets one token
    at the end of each. So its token times are those of each span in turn: `token_time`, then the ends of
    the lane's decode iterations join..leave-1.
    """

    columns: Columns

    def __post_init__(self) -> None:
        check_columns("spans", self.columns, SPAN_COLUMNS)

    def __len__(self) -> int:
        """Rows."""
        return len(self.columns["request"])


@dataclass(frozen=True)
class Transfers:
    """Embeddings and KV sent from instance to instance: TRANSFER_COLUMNS, shape (transfers,)."""

    columns: Columns

    def __post_init__(self) -> None:
        check_columns("transfers", self.columns, TRANSFER_COLUMNS)

    def __len__(self) -> int:
        """Rows."""
        return len(self.columns["request"])


def check_columns(what: str, columns: Columns, names: Mapping[str, object] | list[str]) -> None:
    """Holds a producer to the contract.

    Raises:
        ValueError: a column is missing, or they differ in length.
    """
    missing = [name for name in names if name not in columns]
    if missing:
        raise ValueError(f"{what}: no column {', '.join(missing)}")
    if len({len(column) for column in columns.values()}) > 1:
        raise ValueError(f"{what}: the columns differ in length")
