"""A profile as a Parquet file: the columns of `COLUMNS`, and its origin in the schema's metadata."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from triptych.profiles.check import check_names, check_profile
from triptych.profiles.shapes import check_units
from triptych.profiles.table import COLUMNS, DTYPES, Columns, Profile, ProfileInfo
from triptych.spec.base import SpecError

_INFO = b"triptych.profile"


def write_profile(profile: Profile, path: str | Path) -> None:
    """Writes a profile so that `read_profile` gives it back; what was there is replaced when it is whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: pa.array(profile.columns[name]) for name in COLUMNS})
    table = table.replace_schema_metadata({_INFO: profile.info.model_dump_json().encode()})
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    pq.write_table(table, partial, compression="zstd")
    partial.replace(target)


def read_profile(path: str | Path) -> Profile:
    """The profile of a file that `write_profile`, or another tool, wrote.

    Raises:
        SpecError: the file cannot be read, says nothing of its origin, or the column and row that are wrong.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise SpecError("", f"cannot be read as Parquet: {reason}", file=path) from None
    info = _info(table.schema.metadata or {}, path)
    needed = [name for name, column in COLUMNS.items() if column.default is None]
    check_names(table.column_names, needed, path)
    columns: Columns = {}
    for name, column in COLUMNS.items():
        if name in table.column_names:
            try:
                values = table[name].to_numpy(zero_copy_only=False)
                columns[name] = values.astype(DTYPES[column.kind])
            except (ValueError, TypeError):
                problem = f"holds {table[name].type}; it must hold {_WORDS[column.kind]} in every row"
                raise SpecError(name, problem, file=path) from None
        else:
            columns[name] = np.full(table.num_rows, column.default, dtype=DTYPES[column.kind])
    profile = Profile(info, columns)
    check_profile(profile, path)
    check_units(profile, path)
    return profile


def _info(metadata: dict[bytes, bytes], path: str | Path) -> ProfileInfo:
    if _INFO not in metadata:
        raise SpecError("", "no profile: its schema has no metadata triptych.profile", file=path)
    import json

    try:
        data = json.loads(metadata[_INFO])
    except ValueError:
        raise SpecError("", "the metadata triptych.profile is not JSON", file=path) from None
    return ProfileInfo.parse(data, file=path)


_WORDS = {"text": "text", "count": "whole numbers", "number": "numbers", "flag": "true or false"}
