"""The run's tables as Parquet. Each column carries its unit and what it says as metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from triptych.record.columns import (
    BATCH_COLUMNS,
    DERIVED_REQUEST_COLUMNS,
    REQUEST_COLUMNS,
    UNITS,
    WORK_COLUMNS,
)
from triptych.record.logs import Columns, LaneLog
from triptych.record.run import STATUSES, Run
from triptych.spec.base import SpecError

if TYPE_CHECKING:
    import pyarrow as pa

_ALL_REQUEST_COLUMNS = {**REQUEST_COLUMNS, **DERIVED_REQUEST_COLUMNS}
_LANE_COLUMNS = {**BATCH_COLUMNS, **WORK_COLUMNS}
_PLACE_COLUMNS = {"instance": ("int32", "id of the instance"), "lane": ("int32", "number of the lane in it")}
_GROUP_ROWS = 1 << 18
"""Rows of batches that are written at a time."""


def write_requests(run: Run, path: Path) -> None:
    """A row a request; `status` as text."""
    import pyarrow as pa

    columns: dict[str, Any] = {
        name: None if name == "status" else run.column(name) for name in _ALL_REQUEST_COLUMNS
    }
    codes = pa.array(run.requests["status"], pa.int8())
    columns["status"] = pa.DictionaryArray.from_arrays(codes, pa.array(STATUSES))
    write_table(columns, path, _ALL_REQUEST_COLUMNS)


def read_requests(path: Path) -> dict[str, Any]:
    """What `write_requests` wrote: `status` as positions in STATUSES again.

    Raises:
        SpecError: the file is missing or broken.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    table = _read(path, list(_ALL_REQUEST_COLUMNS))
    columns = {name: _plain(table, name) for name in table.column_names if name != "status"}
    codes = pc.index_in(table["status"].cast(pa.string()), pa.array(STATUSES))
    if codes.null_count:
        raise SpecError("status", "holds an unknown status; make the run again", file=path)
    columns["status"] = codes.to_numpy().astype(np.int8)
    return columns


def write_batches(lanes: Sequence[LaneLog], path: Path, every: int) -> None:
    """Every `every`-th row of each lane, in the order of the lanes, with `instance` and `lane` before it.

    Written in groups of rows, so that it takes little memory beside the logs.
    """
    import pyarrow.parquet as pq

    schema = _table(_rows([], every), {**_PLACE_COLUMNS, **_LANE_COLUMNS}).schema
    with pq.ParquetWriter(path, schema) as writer:
        group: list[LaneLog] = []
        rows = 0
        for lane in lanes:
            group.append(lane)
            rows += len(lane)
            if rows >= _GROUP_ROWS:
                writer.write_table(_table(_rows(group, every), {**_PLACE_COLUMNS, **_LANE_COLUMNS}))
                group, rows = [], 0
        writer.write_table(_table(_rows(group, every), {**_PLACE_COLUMNS, **_LANE_COLUMNS}))


def read_batches(path: Path, places: Sequence[tuple[int, int]]) -> list[LaneLog]:
    """The rows of each (instance, lane).

    Raises:
        SpecError: the file is missing or broken.
    """
    table = _read(path, ["instance", "lane", *_LANE_COLUMNS])
    columns = {name: _plain(table, name) for name in table.column_names}
    lane_ids = columns.pop("instance").astype(np.int64) << 32 | columns.pop("lane")
    order = np.argsort(lane_ids, kind="stable")
    lane_ids = lane_ids[order]
    columns = {name: column[order] for name, column in columns.items()}
    wanted = np.array([instance << 32 | lane for instance, lane in places], dtype=np.int64)
    begins, ends = np.searchsorted(lane_ids, wanted), np.searchsorted(lane_ids, wanted, side="right")
    return [
        LaneLog(instance, lane, {name: column[begin:end] for name, column in columns.items()})
        for (instance, lane), begin, end in zip(places, begins, ends, strict=True)
    ]


def no_batches(places: Sequence[tuple[int, int]]) -> list[LaneLog]:
    """Lanes of which no batch was kept."""
    return [LaneLog(*place, _empty()) for place in places]


def write_table(columns: Columns, path: Path, described: Mapping[str, tuple[str, str]]) -> None:
    """Columns of equal length as one file, each with its description."""
    import pyarrow.parquet as pq

    pq.write_table(_table(columns, described), path)


def read_table(path: Path) -> dict[str, Any]:
    """All columns of a file.

    Raises:
        SpecError: the file is missing or broken.
    """
    table = _read(path, [])
    return {name: _plain(table, name) for name in table.column_names}


def _rows(lanes: Sequence[LaneLog], every: int) -> dict[str, Any]:
    sizes = [len(range(0, len(lane), every)) for lane in lanes]
    columns: dict[str, Any] = {
        "instance": np.repeat(np.array([lane.instance for lane in lanes], dtype=np.int32), sizes),
        "lane": np.repeat(np.array([lane.lane for lane in lanes], dtype=np.int32), sizes),
    }
    for name, empty in _empty().items():
        parts = [lane.columns[name][::every] for lane in lanes]
        columns[name] = np.concatenate([empty, *parts]).astype(empty.dtype, copy=False)
    return columns


def _empty() -> dict[str, Any]:
    return {name: np.empty(0, kind) for name, (kind, _) in _LANE_COLUMNS.items()}


def _table(columns: Columns, described: Mapping[str, tuple[str, str]]) -> pa.Table:
    import pyarrow as pa

    arrays = {name: pa.array(column) for name, column in columns.items()}
    schema = [
        pa.field(
            name,
            array.type,
            metadata={
                "unit": UNITS.get(name, ""),
                "description": described[name][1] if name in described else "",
            },
        )
        for name, array in arrays.items()
    ]
    return pa.Table.from_arrays(list(arrays.values()), schema=pa.schema(schema))


def _read(path: Path, names: list[str]) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise SpecError("", "is missing; make the run again", file=path) from None
    except (pa.ArrowException, OSError):
        raise SpecError("", "is not a readable Parquet file; make the run again", file=path) from None
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise SpecError(missing[0], "no such column; make the run again", file=path)
    return table


def _plain(table: pa.Table, name: str) -> Any:
    return table[name].to_numpy()
