"""Refuses tables of measurements that cannot be what they say they are, by file, column and row."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.profiles.table import COLUMNS, PROVENANCES, Profile
from triptych.spec.base import SpecError, did_you_mean, shown

_LONGEST = 1000.0
"""Seconds: no operator of one layer takes so long."""


def check_names(given: Iterable[str], needed: Iterable[str], file: str | Path) -> None:
    """All needed columns are there.

    Raises:
        SpecError: one is missing.
    """
    names = list(given)
    for name in needed:
        if name not in names:
            mend = did_you_mean(name, names) or f"the file has {', '.join(names[:8])}"
            raise SpecError(name, f"no such column; {mend}", file=file)


def check_profile(profile: Profile, file: str | Path) -> None:
    """Sizes are not negative, times are positive and possible, texts known.

    Raises:
        SpecError: the first column, and its row counted from 0, that is wrong.
    """
    columns = profile.columns
    if len(profile) == 0:
        raise SpecError("", "holds no measurement; use another file", file=file)
    check_times("seconds", columns["seconds"], file)
    for name, column in COLUMNS.items():
        values = columns[name]
        if column.kind == "count" or name == "bytes":
            refuse(values < 0, name, values, "is negative", file)
    refuse(columns["seconds"] > _LONGEST, "seconds", columns["seconds"], "is no time in seconds", file)
    unknown = ~np.isin(columns["provenance"].astype(str), PROVENANCES)
    refuse(unknown, "provenance", columns["provenance"], f"is none of {', '.join(PROVENANCES)}", file)


def check_times(name: str, values: NDArray[Any], file: str | Path) -> None:
    """Times are finite and not negative.

    Raises:
        SpecError: the first that is not.
    """
    refuse(~np.isfinite(values), name, values, "is no number", file)
    refuse(values < 0, name, values, "is negative", file)


def refuse(wrong: NDArray[np.bool_], name: str, values: NDArray[Any], problem: str, file: str | Path) -> None:
    """Refuses the first row that is wrong.

    Raises:
        SpecError: there is one.
    """
    rows = np.flatnonzero(wrong)
    if len(rows):
        row = int(rows[0])
        value = values[row].item() if isinstance(values[row], np.generic) else values[row]
        more = f" (and {len(rows) - 1} more rows)" if len(rows) > 1 else ""
        raise SpecError(f"{name}, row {row}", f"{shown(value)} {problem}; mend or drop it{more}", file=file)
