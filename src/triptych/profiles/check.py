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
_LARGE = 20e-6
"""Seconds of ideal time from which launches, which a data sheet says nothing of, matter little."""
_TOO_FAST, _TOO_SLOW = 3.0, 1000.0
"""Of the ideal time. No kernel is three times better than a data sheet, and one that is a thousand times
worse was written in the next smaller unit: whatever its efficiency, it would be at least so far off."""
_UNITS = ("s", "ms", "us", "ns")


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
    refuse(columns["prompts"] == 0, "prompts", columns["prompts"], "is no number of prompts", file)
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


def check_speed(
    name: str,
    given: NDArray[Any],
    unit: str,
    ideal: NDArray[Any],
    file: str | Path,
    *,
    fast: bool = True,
) -> None:
    """Times of large operators lie near what the device can do, so that they have the unit they should.

    Args:
        name: the column.
        given: times as the file has them, shape (rows,).
        unit: what they should be in: s, ms or us.
        ideal: seconds by the data sheet, shape (rows,); rows below 20 us are not judged.
        file: where they are.
        fast: whether none can be faster than the data sheet.

    Raises:
        SpecError: the first that is over 3 times faster than the ideal, or, where that is so of most, the
            first that is over 1,000 times slower.
    """
    place = _UNITS.index(unit)
    seconds = given * 1e-3**place
    large = ideal >= _LARGE
    if fast:
        looks = f"it looks like {_UNITS[place - 1]} where {unit} belong" if place else "name its device"
        problem = f"{unit} is over 3 times faster than the data sheet; {looks}"
        refuse(large & (seconds < ideal / _TOO_FAST), name, given, problem, file)
    # A few such rows are just badly measured; a wrong unit is that of the whole column.
    late = large & (seconds > ideal * _TOO_SLOW)
    if 2 * late.sum() > large.sum():
        looks = f"it looks like {_UNITS[place + 1]} where {unit} belong"
        refuse(late, name, given, f"{unit} is over 1,000 times the data sheet's; {looks}", file)


def check_shape(
    name: str, given: NDArray[Any], expected: NDArray[Any] | int, model: str, file: str | Path
) -> None:
    """What a file says of the model's shape is what the catalogue says.

    Raises:
        SpecError: the first row where it is not.
    """
    wanted = np.broadcast_to(np.asarray(expected), given.shape)
    for row in np.flatnonzero(given != wanted)[:1]:
        problem = f"{given[row]} is not that of {model}, {wanted[row]}; name the model that was measured"
        raise SpecError(f"{name}, row {row}", problem, file=file)


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
        raise SpecError(f"{name}, row {row}", f"{shown(value)} {problem}; fix or drop it{more}", file=file)
