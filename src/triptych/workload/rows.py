"""Requests from the rows of a trace that is text, read as far as they are wanted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from triptych.spec.base import SpecError
from triptych.workload.requests import Requests, RowError
from triptych.workload.window import Window

_AT_A_TIME = 1024


class Row(NamedTuple):
    """One request of a trace."""

    time: float
    """Seconds, by the clock of the trace."""
    prompt: int
    output: int
    prefix: Sequence[int] = ()
    """Chained ids of the prompt's prefixes."""


def gather(
    rows: Iterator[Row],
    window: Window,
    names: Mapping[str, str],
    path: Path,
    *,
    first_line: int = 1,
    id_tokens: int = 0,
) -> Requests:
    """The requests of the rows, at times that count from the first of them.

    Args:
        rows: in the order of their lines.
        window: what is wanted: no more is read than holds it.
        names: columns of `Requests` -> what they are called in the file.
        path: the file, for errors.
        first_line: the line of the first row, for errors.
        id_tokens: tokens that one prefix id covers.

    Raises:
        SpecError: there is no row, or the line and field that are wrong.
    """
    read: list[Row] = []
    while not window.full:
        some = list(islice(rows, _AT_A_TIME))
        if not some:
            break
        window.see([row.time for row in some])
        read += some
    if not read:
        raise SpecError("", "no request in the file; use another trace", file=path)
    times, prompts, outputs, prefixes = zip(*read, strict=True)
    seconds = np.array(times, dtype=np.float64)
    try:
        plain = Requests.plain(
            seconds - seconds[0], np.array(prompts, dtype=np.int64), np.array(outputs, dtype=np.int64)
        )
    except RowError as error:
        field = f"line {error.row + first_line}, {names[error.column]}"
        raise SpecError(field, error.problem, file=path) from None
    ends = np.cumsum([0, *map(len, prefixes)], dtype=np.int64)
    return replace(
        plain,
        prefix_offsets=ends,
        prefix_ids=np.array([one for ids in prefixes for one in ids], dtype=np.int64),
        prefix_block_tokens=id_tokens,
    )
