"""Requests as a Parquet file, one row a request.

    arrival            double       seconds, rising; 0 in a closed loop
    text_tokens        int64        tokens of the prompt without its images
    output_tokens      int64        tokens to generate
    patience           double       seconds after which the client gives up, inf: never (may be left out)
    gives_up_by_abort  bool         it goes away, rather than timing out (may be left out)
    image_width        list<int32>  pixels of each image (the three may be left out together)
    image_height       list<int32>
    image_content      list<int64>  equal numbers are equal pixels
    prefix_ids         list<int64>  chained ids of the prompt's prefixes (may be left out)

Two numbers stand in the metadata of the schema: `triptych.prefix_block_tokens`, the tokens that one prefix id
covers, and in a closed loop `triptych.concurrency`.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.spec.base import SpecError
from triptych.workload.requests import Requests, RowError
from triptych.workload.window import Window

_LOG = logging.getLogger(__name__)
_AT_A_TIME = 1 << 14
_CLOCK = 1e8
"""Seconds, about three years, after which no trace begins: it is the Unix clock (of 1973 or later)."""
_FINER = 1e11
"""Seconds, about 3,000 years: the Unix clock in milliseconds or less."""

_PLAIN = {
    "arrival": "float64",
    "text_tokens": "int64",
    "output_tokens": "int64",
    "patience": "float64",
    "gives_up_by_abort": "bool_",
}
_LISTS = {
    "image_width": "int32",
    "image_height": "int32",
    "image_content": "int64",
    "prefix_ids": "int64",
}
_REQUIRED = ("arrival", "text_tokens", "output_tokens")
_IMAGES = ("image_width", "image_height", "image_content")
_BLOCK_TOKENS = b"triptych.prefix_block_tokens"
_CONCURRENCY = b"triptych.concurrency"


def write_parquet(requests: Requests, path: str | Path) -> None:
    """Writes requests so that `read_parquet` gives them back, bit for bit."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {name: pa.array(getattr(requests, name)) for name in _PLAIN}
    for name in _LISTS:
        offsets: Any = requests.prefix_offsets if name == "prefix_ids" else requests.image_offsets
        columns[name] = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(getattr(requests, name)))
    metadata = {_BLOCK_TOKENS: str(requests.prefix_block_tokens)}
    if requests.concurrency is not None:
        metadata[_CONCURRENCY] = str(requests.concurrency)
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)


def read_parquet(path: str | Path, window: Window | None = None) -> Requests:
    """The requests of a file that `write_parquet` or another tool wrote; at least one.

    Times are taken as written, unless they are seconds of the Unix clock: those count from the first, and a
    line on standard error says so.

    Args:
        path: of the file.
        window: what is wanted of it: no more is read than holds it; None: all.

    Raises:
        SpecError: the file cannot be read, or the column, and the row counted from 0, that are wrong.
    """
    table = _table(path, window or Window())
    if table.num_rows == 0:
        raise SpecError("", "no request in the file; use another trace", file=path)

    n = table.num_rows
    empty = np.zeros(n + 1, dtype=np.int64)
    columns: dict[str, Any] = {
        "patience": np.full(n, np.inf),
        "gives_up_by_abort": np.zeros(n, dtype=np.bool_),
        **{name: np.zeros(0, dtype=dtype) for name, dtype in _LISTS.items()},
        "image_offsets": empty,
        "prefix_offsets": empty,
    }
    for name in _PLAIN:
        if name in table.column_names:
            columns[name] = _column(table, name, path)
    for name in _LISTS:
        if name in table.column_names:
            offsets, columns[name] = _list_column(table, name, path)
            kind = "prefix_offsets" if name == "prefix_ids" else "image_offsets"
            if name in _IMAGES[1:] and not np.array_equal(offsets, columns[kind]):
                row = int((offsets != columns[kind]).argmax()) - 1
                raise _wrong(path, row, name, "must be as long as image_width")
            columns[kind] = offsets
    columns["arrival"] = _from_start(columns["arrival"], path)
    metadata = table.schema.metadata or {}
    try:
        return Requests(
            **columns,
            prefix_block_tokens=int(metadata.get(_BLOCK_TOKENS, 0)),
            concurrency=int(metadata[_CONCURRENCY]) if _CONCURRENCY in metadata else None,
        )
    except RowError as error:
        raise _wrong(path, error.row, error.column, error.problem) from None
    except ValueError as error:
        raise SpecError("metadata", str(error), file=path) from None


def _table(path: str | Path, window: Window) -> Any:
    """The columns of its first rows, as many as hold what is wanted."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            _check_columns(schema.names, path)
            batches = []
            for batch in file.iter_batches(_AT_A_TIME):
                batches.append(batch)
                times = batch.column("arrival")
                if not times.null_count:  # which is refused later, with its row in the file
                    window.see(_values(times, "arrival", "float64", path))
                if window.full:
                    break
            return pa.Table.from_batches(batches, schema)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise SpecError("", f"cannot be read as Parquet: {reason}", file=path) from None


def _from_start(arrival: NDArray[np.float64], path: str | Path) -> NDArray[np.float64]:
    """The times, from the first of them if they are those of the Unix clock.

    Raises:
        SpecError: they are of that clock, and in a finer unit than seconds.
    """
    first = float(arrival[0])
    if not _CLOCK <= first < np.inf:
        return arrival
    if first >= _FINER:
        problem = f"{first:.17g} s after the start makes no sense; write seconds, not a finer unit"
        raise _wrong(path, 0, "arrival", problem)
    when = datetime.fromtimestamp(first, UTC)
    _LOG.warning("%s: arrival: Unix times, counted from the first, %s", path, f"{when:%Y-%m-%d %H:%M:%S} UTC")
    return arrival - first


def _check_columns(names: list[str], path: str | Path) -> None:
    for name in _REQUIRED:
        if name not in names:
            raise SpecError(name, "missing; add the column", file=path)
    given = [name for name in _IMAGES if name in names]
    if given and len(given) < len(_IMAGES):
        missing = next(name for name in _IMAGES if name not in names)
        raise SpecError(missing, f"missing beside {given[0]}; add the column", file=path)
    for name in names:
        if name not in _PLAIN and name not in _LISTS:
            raise SpecError(name, "no such column; remove it or correct its name", file=path)


def _column(table: Any, name: str, path: str | Path) -> NDArray[Any]:
    return _values(table.column(name).combine_chunks(), name, _PLAIN[name], path)


def _list_column(table: Any, name: str, path: str | Path) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Offsets [n + 1] and items of a column of lists."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = table.column(name).combine_chunks()
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        raise SpecError(name, f"must hold lists, not {column.type}", file=path)
    _refuse_null(column, name, path)
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    offsets = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
    return offsets, _values(column.flatten(), name, _LISTS[name], path)


def _values(array: Any, name: str, dtype: str, path: str | Path) -> NDArray[Any]:
    import pyarrow as pa

    _refuse_null(array, name, path)
    try:
        array = array.cast(pa.from_numpy_dtype(np.dtype(dtype)))
    except pa.ArrowException:
        kind = array.type
        raise SpecError(name, f"must be {dtype}, which {kind} does not fit", file=path) from None
    return np.asarray(array.to_numpy(zero_copy_only=False), dtype=dtype)


def _refuse_null(array: Any, name: str, path: str | Path) -> None:
    if array.null_count:
        row = int(array.is_null().to_numpy(zero_copy_only=False).argmax())
        raise _wrong(path, row, name, "has no value; correct or remove the row")


def _wrong(path: str | Path, row: int, column: str, problem: str) -> SpecError:
    return SpecError(f"row {row}, {column}", problem, file=path)
