"""The work of rows of the batch log: FLOP for MFU, bytes moved for MBU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.cost.loads import NO_LOAD, Floats, loads
from triptych.cost.operators import Formats, Operator
from triptych.cost.placement import operators, runs, stage_parts
from triptych.spec.deployment import Parallelism
from triptych.spec.device import Device
from triptych.spec.model import Model, TextModel


class Work:
    """FLOP and bytes of an instance's batches.

    Args:
        model: what runs.
        device: any; work does not depend on it.
        parallel: of the instance.
        formats: of weights and KV.
        sharded: the operators of one device under `parallel`.
    """

    def __init__(
        self,
        model: Model,
        device: Device,
        parallel: Parallelism,
        formats: Formats,
        sharded: list[Operator],
    ) -> None:
        self._model = model
        self._parallel = parallel
        self._stages = stage_parts(model, parallel.pipeline)
        self._sharded = sharded
        self._whole = operators(model, device, None, Parallelism(), formats)

    def rows(self, columns: Mapping[str, NDArray[Any]]) -> tuple[Floats, Floats]:
        """FLOP and bytes of rows: see `IterationCost.work`."""
        column, iterations = mean_columns(columns, self._model.text)
        tokens = column["tokens"]
        of_row = loads(self._model, **column)
        of_ranks = loads(self._model, **{**NO_LOAD, "tokens": tokens * self._parallel.data})
        flops, moved = np.zeros_like(tokens), np.zeros_like(tokens)
        for operator in self._whole:
            flops += runs(operator, self._stages) * operator.flops(of_row[operator.over])
        for operator in self._sharded:
            load = (of_ranks if operator.over == "pooled" else of_row)[operator.over]
            copies = runs(operator, self._stages) * self._parallel.tensor
            moved += copies * operator.moved(load)
        return flops * iterations, moved * iterations


_COLUMNS = (
    *("iterations", "prefill_tokens", "prefill_pairs", "prefill_kv", "sampled"),
    *("decodes", "decode_kv", "patches", "patch_pairs"),
)


def mean_columns(columns: Mapping[str, NDArray[Any]], text: TextModel) -> tuple[dict[str, Floats], Floats]:
    """The arguments of `loads` for an iteration that is the mean of its row's, and the rows' iterations.

    Pairs and KV tokens are those of the mean over layers.
    """
    column = {name: np.asarray(columns[name], dtype=np.float64) for name in _COLUMNS}
    iterations, decodes = column.pop("iterations"), column["decodes"]
    # In a run of chunks of one prompt the history grows by a chunk each time: at the middle of the run it is
    # what it is on average.
    earlier = column["prefill_tokens"] * (iterations - 1) / 2
    column["prefill_pairs"] = column["prefill_pairs"] + column["prefill_tokens"] * earlier
    column["prefill_kv"] = column["prefill_kv"] + earlier
    pairs, kv = column["prefill_pairs"], column["decode_kv"]
    column["decode_kv"] = mean_decode_kv(kv, decodes, iterations)
    window, windowed = text.sliding_window, text.windowed_share
    if window is not None:  # the log counts pairs as if there were none; a query sees no more than it
        near = np.minimum(pairs, column["prefill_tokens"] * window)
        column["prefill_pairs"] = _mixed(near, pairs, windowed)
        near = mean_decode_kv(kv, decodes, iterations, window)
        column["decode_kv"] = _mixed(near, column["decode_kv"], windowed)
    column["tokens"] = column["prefill_tokens"] + decodes
    return column, iterations


def _mixed(near: Floats, far: Floats, share: float) -> Floats:
    """`share` of the first, the rest of the second."""
    return near if share == 1.0 else share * near + (1.0 - share) * far


def mean_decode_kv(first: Floats, decodes: Floats, iterations: Floats, window: int | None = None) -> Floats:
    """KV tokens that decode attention reads in an iteration, on the mean over a row's iterations.

    They grow by `decodes` each iteration, until they reach the sliding window.
    """
    growing = iterations
    if window is not None:
        steps = np.floor((decodes * window - first) / np.maximum(decodes, 1)) + 1
        growing = np.clip(steps, 0, iterations)
    total = growing * first + decodes * growing * (growing - 1) / 2
    if window is not None:
        total += (iterations - growing) * decodes * window
    return np.asarray(total / np.maximum(iterations, 1))
