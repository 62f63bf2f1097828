"""Rows that measured the same are averaged."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from triptych.profiles.table import COLUMNS, DTYPES, Columns, Profile

_MEASURED = {name for name in COLUMNS if COLUMNS[name].kind in ("number", "flag") and name != "bytes"} | {
    "repeats"
}
"""Columns that say how long; the others say what was run."""


def averaged(profile: Profile) -> Profile:
    """One row for each thing that was measured, in the order in which they first come.

    The mean of several rows counts each alike; repeats add up; medians and percentiles of several rows are
    not known. The standard deviation is that within the rows, where it is known, and between them together.
    """
    group, first = _groups(profile)
    if len(first) == len(profile):
        return profile
    rows = np.bincount(group).astype(np.float64)
    several = rows > 1

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(group, values) / rows

    given = profile.columns
    columns: Columns = {name: values[first] for name, values in given.items()}
    seconds = given["seconds"]
    columns["seconds"] = np.where(several, mean(seconds), seconds[first])
    within = mean(np.nan_to_num(given["deviation"]) ** 2)
    between = mean((seconds - columns["seconds"][group]) ** 2)
    columns["deviation"] = np.where(several, np.sqrt(within + between), given["deviation"][first])
    columns["kernel_seconds"] = np.where(
        several, mean(given["kernel_seconds"]), given["kernel_seconds"][first]
    )
    for name in ("median", "p10", "p90"):
        columns[name] = np.where(several, np.nan, given[name][first])
    columns["repeats"] = np.bincount(group, given["repeats"]).astype(DTYPES["count"])
    columns["unsteady"] = np.bincount(group, given["unsteady"]) > 0
    return Profile(profile.info, columns)


def _groups(profile: Profile) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The group of each row, shape (rows,), and the first row of each group, in order."""
    code = np.zeros(len(profile), dtype=np.int64)
    for name in COLUMNS:
        if name not in _MEASURED:
            kinds, value = np.unique(profile.columns[name], return_inverse=True)
            if len(kinds) > 1:
                # Numbered anew at every column, so that the product never overflows.
                code = np.unique(code * len(kinds) + value, return_inverse=True)[1].astype(np.int64)
    _, first, group = np.unique(code, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return place[group].astype(np.int64), first[order].astype(np.int64)
