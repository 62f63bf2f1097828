"""What a profile comes to for one model on one device: a curve for each operator, grids for attention.

Filled once (`fill.py`) and kept on disk under a name that is the digest of all that went in.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from triptych.cost.attention import Grid
from triptych.cost.loads import Floats
from triptych.cost.source import INTERPOLATED, MEASURED, ROOFLINE
from triptych.cost.together import Together


@dataclass(frozen=True)
class Curve:
    """Seconds of one operator over one size: units, or bytes of a collective's message."""

    knots: Floats
    """Sizes, rising; at least one."""
    seconds: Floats
    exact: bool
    """Whether the knots were measured, rather than worked out from other sizes."""

    def at(self, sizes: Floats, roofline: Callable[[Floats], Floats]) -> Floats:
        """Seconds at sizes of any shape; beyond the knots, at the edge's ratio to the roofline.

        Args:
            sizes: above 0.
            roofline: seconds by the data sheet, of sizes.
        """
        known = np.interp(sizes, self.knots, self.seconds)
        edge = np.clip(sizes, self.knots[0], self.knots[-1])
        beyond = edge != sizes
        if not beyond.any():
            return known
        scale = np.ones_like(known)
        scale[beyond] = roofline(sizes[beyond]) / roofline(edge[beyond])
        return known * scale

    def source(self, sizes: Floats) -> NDArray[np.int64]:
        """MEASURED, INTERPOLATED or ROOFLINE of each size."""
        inside = (sizes >= self.knots[0]) & (sizes <= self.knots[-1])
        exact = np.isin(sizes, self.knots) if self.exact else np.zeros(sizes.shape, dtype=np.bool_)
        return np.where(inside, np.where(exact, MEASURED, INTERPOLATED), ROOFLINE)


@dataclass(frozen=True)
class Fit:
    """How well an operator's estimator does at sizes that it was not shown."""

    operator: str
    source: str
    """The profile that it comes from."""
    estimator: str
    rows: int
    median_error: float
    """Of the absolute relative errors; NaN where too few sizes were measured to hold any out."""
    p90_error: float
    bias: float
    """Mean of the signed relative errors."""


@dataclass(frozen=True)
class Tables:
    """All that is looked up: operators that are in neither curves nor covered have only the roofline."""

    curves: dict[str, Curve] = field(default_factory=dict)
    """By the operator's name."""
    covered: frozenset[str] = frozenset()
    """Operators whose time is in another's curve."""
    prefill: Grid | None = None
    decode: Grid | None = None
    joint: Grid | None = None
    unequal: float = 0.0
    """How much of the way from the mean to the longest context a batch of unequal contexts takes."""
    together: Together | None = None
    """What several prompt chunks take in one launch; None: each is a launch of its own."""
    iteration: float = 0.0
    """Host seconds of an iteration, where they were measured."""
    sequence: float = 0.0
    """And of each sequence that gets a token."""
    fits: tuple[Fit, ...] = ()


def load_tables(path: Path) -> Tables | None:
    """The tables of a file, or None if there is none that can be read."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return _unpacked({name: stored[name] for name in stored.files})
    except (OSError, ValueError, KeyError, BadZipFile):
        return None


def save_tables(tables: Tables, path: Path) -> None:
    """Writes tables, whole or not at all; where there is no room for them they are just not kept."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, suffix=".partial", delete=False) as partial:
            np.savez(partial, **_packed(tables))
        os.replace(partial.name, path)  # noqa: PTH105 - a name, not a path
    except OSError:
        return


def _packed(tables: Tables) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    about: dict[str, Any] = {
        "covered": sorted(tables.covered),
        "unequal": tables.unequal,
        "together": None if tables.together is None else asdict(tables.together),
        "iteration": tables.iteration,
        "sequence": tables.sequence,
        "fits": [asdict(fit) for fit in tables.fits],
        "curves": {name: curve.exact for name, curve in tables.curves.items()},
        "grids": {},
    }
    for name, curve in tables.curves.items():
        arrays[f"curve/{name}"] = np.stack([curve.knots, curve.seconds])
    for name in ("prefill", "decode", "joint"):
        grid: Grid | None = getattr(tables, name)
        if grid is not None:
            about["grids"][name] = len(grid.knots)
            arrays[f"{name}/seconds"], arrays[f"{name}/range"] = grid.seconds, np.stack([grid.low, grid.high])
            for axis, knots in enumerate(grid.knots):
                arrays[f"{name}/{axis}"] = knots
    arrays["about"] = np.array(json.dumps(about))
    return arrays


def _unpacked(arrays: dict[str, Any]) -> Tables:
    about = json.loads(str(arrays["about"]))
    grids = {
        name: Grid(
            tuple(arrays[f"{name}/{axis}"] for axis in range(dimensions)),
            arrays[f"{name}/seconds"],
            *arrays[f"{name}/range"],
        )
        for name, dimensions in about["grids"].items()
    }
    return Tables(
        curves={
            name: Curve(arrays[f"curve/{name}"][0], arrays[f"curve/{name}"][1], exact)
            for name, exact in about["curves"].items()
        },
        covered=frozenset(about["covered"]),
        prefill=grids.get("prefill"),
        decode=grids.get("decode"),
        joint=grids.get("joint"),
        unequal=about["unequal"],
        together=None if about["together"] is None else Together(**about["together"]),
        iteration=about["iteration"],
        sequence=about["sequence"],
        fits=tuple(Fit(**fit) for fit in about["fits"]),
    )
