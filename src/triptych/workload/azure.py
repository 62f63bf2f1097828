"""Reader of the LLM inference traces of AzurePublicDataset, 2023 and 2024 (CC-BY).

A CSV with the columns TIMESTAMP (`2023-11-16 18:15:46.6805900`, or with a zone as in 2024,
`2024-05-10 00:00:00.009930+00:00`; rising), ContextTokens and GeneratedTokens. Described in Patel et al.,
Splitwise, ISCA 2024, and Stojkovic et al., DynamoLLM, HPCA 2025.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from triptych.spec.base import SpecError, shown
from triptych.workload.requests import Requests
from triptych.workload.rows import Row, gather
from triptych.workload.text import text_lines
from triptych.workload.window import Window

HEADER = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]
_NAMES = dict(zip(("arrival", "text_tokens", "output_tokens"), HEADER, strict=True))
_FIRST_LINE = 2
_ZONE = re.compile(r"(?:Z|([+-])(\d\d):?(\d\d))$")
_SECOND = np.timedelta64(1, "s")


def read_azure(path: Path, window: Window | None = None) -> Requests:
    """Its requests, at times that count from the first of them.

    Args:
        path: of the CSV.
        window: what is wanted of it; None: all.

    Raises:
        SpecError: the file cannot be read, or the line and column that are wrong.
    """
    return gather(_rows(path), window or Window(), _NAMES, path, first_line=_FIRST_LINE)


def _rows(path: Path) -> Iterator[Row]:
    lines = csv.reader(text_lines(path, "CSV"))
    origin: np.datetime64 | None = None
    try:
        header = next(lines, None)
        if header != HEADER:
            found = "nothing" if header is None else ",".join(header)
            raise SpecError("line 1", f"the header must be {','.join(HEADER)}, not {found}", file=path)
        for number, cells in enumerate(lines, start=_FIRST_LINE):
            where = f"line {number}"
            if len(cells) != len(HEADER):
                problem = f"{len(cells)} columns instead of {len(HEADER)}; correct or remove the line"
                raise SpecError(where, problem, file=path)
            time = _time(cells[0], where, path)
            origin = time if origin is None else origin
            prompt, output = (
                _tokens(cell, f"{where}, {name}", path)
                for cell, name in zip(cells[1:], HEADER[1:], strict=True)
            )
            yield Row(float((time - origin) / _SECOND), prompt, output)
        if origin is None:
            raise SpecError("line 2", "no request follows the header; use another trace", file=path)
    except csv.Error as error:
        raise SpecError("", f"cannot be read as CSV: {error}", file=path) from None


def _time(text: str, where: str, path: Path) -> np.datetime64:
    """In UTC; without a zone it is taken for that."""
    field = f"{where}, {HEADER[0]}"
    if not text:
        raise SpecError(field, "no time; correct or remove the line", file=path)
    zone = _ZONE.search(text) if ":" in text else None
    try:
        time = np.datetime64(text if zone is None else text[: zone.start()], "ns")
    except ValueError:
        must = "must be a time such as 2023-11-16 18:15:46.68"
        raise SpecError(field, f"{must}, not {shown(text)}; correct or remove the line", file=path) from None
    if np.isnat(time):
        raise SpecError(field, "no time; correct or remove the line", file=path)
    if zone is None or zone[1] is None:
        return time
    ahead = np.timedelta64(int(zone[2]) * 60 + int(zone[3]), "m")
    return time - ahead if zone[1] == "+" else time + ahead


def _tokens(text: str, field: str, path: Path) -> int:
    try:
        tokens = int(text)
    except ValueError:
        tokens = 2**63
    if not abs(tokens) < 2**63:
        problem = f"must be a whole number of tokens, not {shown(text)}; correct or remove the line"
        raise SpecError(field, problem, file=path)
    return tokens
