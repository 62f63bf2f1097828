"""Measured operators as one long table: a row is one operator of one model, or one kernel, at one size.

A row that names a `model` is an operator of it under `tensor` parallelism, by the name that `cost` gives it;
several that a kernel fuses stand as one, joined by `+` ("norm+residual add"). A row without a model is a
kernel that any model may use, and says its own shape: `matmul` by `inputs` and `outputs`, `attention` by
heads, `experts` by what one device holds, collectives by `members`.

Attention that one launch does for prompts and decodes together is `attention`; `prefill attention` and
`decode attention` are launched apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from triptych.spec.base import Spec

Provenance = Literal["measured", "interpolated", "roofline"]
PROVENANCES: tuple[Provenance, ...] = ("measured", "interpolated", "roofline")
Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Column:
    """What a column of the table holds."""

    kind: Literal["text", "count", "number", "flag"]
    meaning: str
    default: str | float | bool | None = None
    """Of a file that lacks the column; None: it must be there."""


COLUMNS: dict[str, Column] = {
    # What was measured.
    "model": Column("text", "catalogue name; empty: a kernel of any model", ""),
    "operator": Column("text", "as `cost` names it; those that one kernel fuses are joined by +"),
    "tensor": Column("count", "tensor parallelism whose shard it is", 1),
    "precision": Column("text", "of the operands", "bf16"),
    "kv_precision": Column("text", "of the KV cache, attention only", "bf16"),
    # The shape of a kernel without a model.
    "inputs": Column("count", "rows of the weight matrix (hidden size of experts)", 0),
    "outputs": Column("count", "columns of it (width of one expert)", 0),
    "heads": Column("count", "query heads", 0),
    "kv_heads": Column("count", "key and value heads", 0),
    "head_dim": Column("count", "elements of a head", 0),
    "window": Column("count", "sliding window in tokens; 0: none", 0),
    "experts": Column("count", "experts of the layer", 0),
    "top_k": Column("count", "experts a token is sent to", 0),
    "groups": Column("count", "groups of devices that the experts are dealt to", 1),
    "members": Column("count", "devices or processes of a collective", 0),
    # The size.
    "units": Column("count", "tokens, sequences or patches; of attention the prompt's query tokens", 0),
    "history": Column("count", "tokens of the prompts that are in the KV cache before", 0),
    "prompts": Column("count", "prompts of that size that one launch attends to", 1),
    "decodes": Column("count", "sequences that decode one token", 0),
    "decode_kv": Column("count", "tokens of KV that each of them reads, on average", 0),
    "longest_kv": Column("count", "tokens of KV that the longest of them reads; 0: all read as much", 0),
    "touched": Column("count", "experts that at least one token is sent to; 0: not known", 0),
    "bytes": Column("number", "of a collective's message or of a copy", 0.0),
    # How long.
    "seconds": Column("number", "mean of one run"),
    "deviation": Column("number", "standard deviation of the runs; NaN: not known", float("nan")),
    "median": Column("number", "NaN: not known", float("nan")),
    "p10": Column("number", "10th percentile; NaN: not known", float("nan")),
    "p90": Column("number", "90th percentile; NaN: not known", float("nan")),
    "kernel_seconds": Column("number", "of it on the device, by its trace; NaN: not known", float("nan")),
    "repeats": Column("count", "runs measured; 0: not known", 0),
    "provenance": Column("text", "measured, interpolated or roofline", "measured"),
    "unsteady": Column("flag", "the spread stayed above its limit when it was measured again", False),
}
"""Name -> what the column holds. Seconds and bytes; sizes are whole numbers."""

SIZES = ("units", "history", "prompts", "decodes", "decode_kv", "longest_kv", "touched", "bytes")
"""Columns that say how large one run was: what runtimes are learned from."""

DTYPES: dict[str, Any] = {"text": np.object_, "count": np.int64, "number": np.float64, "flag": np.bool_}


class ProfileInfo(Spec):
    """Where a profile comes from: all that is known of how it was measured."""

    name: str
    """How `triptych profile list` and a deployment's `profile` call it."""
    device: str
    """A name of the device catalogue."""
    source: str
    """Who measured it, with what, and under which licence."""
    measured_at: str = ""
    """Date, ISO 8601."""
    versions: dict[str, str] = Field(default={})
    """Engine, libraries, driver."""
    clocks: dict[str, str] = Field(default={})
    """Of processor and memory, as the system reports them."""
    unequal: dict[str, float] = Field(default={})
    """By tensor parallelism, how much of the way from the mean to the longest context decode attention takes
    over sequences of unequal length, where the rows themselves do not show it."""
    chunks: Literal["together", "apart"] = "together"
    """Whether one launch does the prefill attention of all prompt chunks of a batch, or each has its own."""
    shapes: dict[str, dict[str, int]] = Field(default={})
    """By model, the sizes that its operators have (`profiles.shapes`): one of that name that has others is
    another model. Of a model that is not in it nothing is known but its name."""
    notes: str = ""
    """What a reader of the figures must know: what they leave out, how they were taken."""


@dataclass(frozen=True)
class Profile:
    """Measured operators of one device, with their origin.

    `columns` holds arrays of shape (rows,), one for each of `COLUMNS`.
    """

    info: ProfileInfo
    columns: Columns

    def __len__(self) -> int:
        return len(self.columns["operator"])

    @property
    def models(self) -> list[str]:
        """Models whose operators it has, by name; an empty name stands for kernels of any model."""
        return sorted(set(self.columns["model"].tolist()))

    def select(self, mask: NDArray[np.bool_]) -> Profile:
        """The rows where the mask, of shape (rows,), is true."""
        return Profile(self.info, {name: values[mask] for name, values in self.columns.items()})

    def of(self, **equal: str | float) -> Profile:
        """The rows whose columns have these values: `profile.of(model="OPT-125M", tensor=1)`."""
        mask = np.ones(len(self), dtype=np.bool_)
        for name, value in equal.items():
            mask &= np.asarray(self.columns[name] == value, dtype=np.bool_)
        return self.select(mask)


def profile_of(info: ProfileInfo, columns: Mapping[str, Any]) -> Profile:
    """A profile of these columns; those left out take their default, a scalar counts for all rows.

    Raises:
        KeyError: a column of `columns` is none of `COLUMNS`, or one without a default is missing.
        ValueError: the columns have different lengths.
    """
    unknown = set(columns) - set(COLUMNS)
    if unknown:
        raise KeyError(f"no column of a profile: {', '.join(sorted(unknown))}")
    rows = len(np.asarray(columns["operator"], dtype=object).reshape(-1))
    full: Columns = {}
    for name, column in COLUMNS.items():
        given = columns[name] if column.default is None else columns.get(name, column.default)
        values = np.asarray(given, dtype=DTYPES[column.kind])
        full[name] = np.array(np.broadcast_to(values, (rows,)))
    return Profile(info, full)


def joined(info: ProfileInfo, profiles: list[Profile]) -> Profile:
    """The rows of several profiles, one after the other."""
    columns = {name: np.concatenate([part.columns[name] for part in profiles]) for name in COLUMNS}
    return Profile(info, columns)
