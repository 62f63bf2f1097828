"""Reader of the LLM inference traces of AzurePublicDataset, 2023 (CC-BY).

A CSV with the columns TIMESTAMP (`2023-11-16 18:15:46.6805900`, rising), ContextTokens and
GeneratedTokens. Described in Patel et al., Splitwise, ISCA 2024.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from triptych.spec.base import SpecError, shown
from triptych.workload.requests import Requests, RowError

HEADER = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]
_NAMES = dict(zip(("arrival", "text_tokens", "output_tokens"), HEADER, strict=True))
_FIRST_LINE = 2


def read_azure(path: Path) -> Requests:
    """Its requests, at times that count from the first of them.

    Raises:
        SpecError: the file cannot be read, or the line and column that are wrong.
    """
    rows = _rows(path)
    times, prompts, outputs = zip(*rows, strict=True)
    stamps = _timestamps(times, path)
    seconds = (stamps - stamps[0]) / np.timedelta64(1, "s")
    try:
        return Requests.plain(seconds, _tokens(prompts, HEADER[1], path), _tokens(outputs, HEADER[2], path))
    except RowError as error:
        raise SpecError(
            f"line {error.row + _FIRST_LINE}, {_NAMES[error.column]}", error.problem, file=path
        ) from None


def _rows(path: Path) -> list[list[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SpecError("", f"cannot be read as CSV: {error}", file=path) from None
    while lines and not lines[-1]:
        lines.pop()
    if not lines or lines[0] != HEADER:
        found = ",".join(lines[0]) if lines else "nothing"
        raise SpecError("line 1", f"the header must be {','.join(HEADER)}, not {found}", file=path)
    rows = lines[1:]
    if not rows:
        raise SpecError("line 2", "no request follows the header; use another trace", file=path)
    for index, row in enumerate(rows):
        if len(row) != len(HEADER):
            raise SpecError(
                f"line {index + _FIRST_LINE}",
                f"{len(row)} columns instead of {len(HEADER)}; correct or remove the line",
                file=path,
            )
    return rows


def _timestamps(texts: Sequence[str], path: Path) -> NDArray[np.datetime64]:
    try:
        stamps = np.array(texts, dtype="datetime64[ns]")
    except ValueError:
        _refuse_first(texts, _is_timestamp, "TIMESTAMP", "a time such as 2023-11-16 18:15:46.68", path)
    missing = np.isnat(stamps)
    if missing.any():
        line = int(missing.argmax()) + _FIRST_LINE
        raise SpecError(f"line {line}, TIMESTAMP", "no time; correct or remove the line", file=path)
    return stamps


def _tokens(texts: Sequence[str], column: str, path: Path) -> NDArray[np.int64]:
    try:
        return np.array(list(map(int, texts)), dtype=np.int64)
    except (ValueError, OverflowError):
        _refuse_first(texts, _is_tokens, column, "a whole number of tokens", path)


def _is_timestamp(text: str) -> bool:
    try:
        np.datetime64(text, "ns")
    except ValueError:
        return False
    return True


def _is_tokens(text: str) -> bool:
    try:
        return abs(int(text)) < 2**63
    except ValueError:
        return False


def _refuse_first(
    texts: Sequence[str], good: Callable[[str], bool], column: str, must: str, path: Path
) -> NoReturn:
    index = next(index for index, text in enumerate(texts) if not good(text))
    raise SpecError(
        f"line {index + _FIRST_LINE}, {column}",
        f"must be {must}, not {shown(texts[index])}; correct or remove the line",
        file=path,
    )
