"""A foreign table, column by column, with errors by file, column and row."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.profiles.check import check_names, check_times, refuse
from triptych.spec.base import SpecError, read_yaml, shown

SECONDS = {"ms": 1e-3, "us": 1e-6}
_FAR = 2.0**53
"""Beyond this a float64 does not hold every whole number."""


@dataclass(frozen=True)
class Source:
    """Columns as they stand in a file, each of shape (rows,): text from CSV, typed from Parquet."""

    file: Path
    columns: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def need(self, names: Iterable[str]) -> None:
        """All these columns are there, and at least one row.

        Raises:
            SpecError: one is missing, or the file holds no row.
        """
        check_names(self.columns, names, self.file)
        if not len(self):
            raise SpecError("", "holds no row; use another file", file=self.file)

    def where(self, mask: NDArray[np.bool_]) -> Source:
        """The rows where the mask, of shape (rows,), is true."""
        return Source(self.file, {name: values[mask] for name, values in self.columns.items()})

    def texts(self, name: str) -> NDArray[Any]:
        """A column of text, shape (rows,).

        Raises:
            SpecError: there is no such column.
        """
        check_names(self.columns, (name,), self.file)
        return self.columns[name].astype(str).astype(object)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A column of numbers, shape (rows,); one that is not finite is refused.

        Raises:
            SpecError: there is no such column, or its first row that is no number.
        """
        check_names(self.columns, (name,), self.file)
        given = self.columns[name]
        try:
            values = given.astype(np.float64)
        except (ValueError, TypeError):
            values = np.array([_number(value) for value in given.tolist()])
        refuse(~np.isfinite(values), name, given, "is no number", self.file)
        return values

    def counts(self, name: str) -> NDArray[np.int64]:
        """A column of whole numbers that are not negative, shape (rows,).

        Raises:
            SpecError: there is no such column, or its first row that is none.
        """
        values = self.numbers(name)
        given = self.columns[name]
        refuse(values < 0, name, given, "is negative", self.file)
        refuse((values != np.floor(values)) | (values > _FAR), name, given, "is no whole number", self.file)
        return values.astype(np.int64)

    def seconds(self, name: str, unit: str) -> NDArray[np.float64]:
        """A column of times in ms or us, in seconds, shape (rows,).

        Raises:
            SpecError: there is no such column, or its first row that is no number or negative.
        """
        values = self.numbers(name)
        check_times(name, values, self.file)
        return values * SECONDS[unit]

    def only(self, name: str) -> str:
        """The one text that all rows of a column have.

        Raises:
            SpecError: there is no such column, or the first row that differs from the first.
        """
        texts = self.texts(name)
        for row in np.flatnonzero(texts != texts[0])[:1]:
            problem = f"{shown(texts[row])} is not {shown(texts[0])} of row 0; read them from separate files"
            raise SpecError(f"{name}, row {row}", problem, file=self.file)
        return str(texts[0])


def read_csv(path: str | Path) -> Source:
    """The columns of a CSV file with a header, all as text.

    Raises:
        SpecError: it cannot be read, or its first row that has not as many fields as the header.
    """
    header, *rows = _lines(Path(path), None)
    for number, row in enumerate(rows):
        if len(row) != len(header):
            problem = f"has {len(row)} fields, the header has {len(header)}; fix or drop it"
            raise SpecError(f"row {number}", problem, file=path)
    columns = zip(*rows, strict=True) if rows else ((),) * len(header)
    named = zip(header, columns, strict=True)
    return Source(Path(path), {name: np.array(values, dtype=str) for name, values in named})


def read_header(path: str | Path) -> Source:
    """The columns of a CSV file without their rows.

    Raises:
        SpecError: it cannot be read.
    """
    (header,) = _lines(Path(path), 1)
    return Source(Path(path), {name: np.array((), dtype=str) for name in header})


def _lines(file: Path, most: int | None) -> list[list[str]]:
    """The fields of so many lines, at least of one."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            found = list(islice(csv.reader(lines), most))
    except FileNotFoundError:
        raise SpecError("", "no such file", file=file) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SpecError("", f"cannot be read as CSV: {_reason(error)}", file=file) from None
    if not found:
        raise SpecError("", "is empty; use another file", file=file)
    return found


def read_parquet(path: str | Path) -> Source:
    """The columns of a Parquet file.

    Raises:
        SpecError: it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = Path(path)
    try:
        table = pq.read_table(file, partitioning=None)
    except FileNotFoundError:
        raise SpecError("", "no such file", file=file) from None
    except (OSError, pa.ArrowException) as error:
        raise SpecError("", f"cannot be read as Parquet: {_reason(error)}", file=file) from None
    return Source(file, {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names})


def read_table(path: str | Path) -> Source:
    """A CSV or Parquet file, by its suffix.

    Raises:
        SpecError: it cannot be read.
    """
    return read_parquet(path) if Path(path).suffix == ".parquet" else read_csv(path)


def read_mapping(path: str | Path) -> dict[str, Any]:
    """The plain data of a YAML file that holds a mapping.

    Raises:
        SpecError: it cannot be read, or holds something else.
    """
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise SpecError("", "must hold a mapping of fields", file=path)
    return data


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return float("nan")


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).splitlines()[0]
