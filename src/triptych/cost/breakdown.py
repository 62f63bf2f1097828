"""The predicted time of batches by class of operator, and by what each part of it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.cost.attention import AttentionTable
from triptych.cost.linear import AttentionTime, TextAttention
from triptych.cost.loads import NO_LOAD, Floats, Load, loads
from triptych.cost.operators import Kind, Operator, Part
from triptych.cost.placement import runs
from triptych.cost.roofline import OperatorTimes
from triptych.cost.work import mean_columns
from triptych.spec.calibration import Factors
from triptych.spec.model import Model

KINDS: tuple[Kind, ...] = ("matmul", "attention", "memory", "network")


class Breakdown:
    """Seconds of rows of the batch log, in parts.

    Args:
        model: what runs.
        operators: of one device.
        stages: how often each part of the model runs, in each pipeline stage.
        times: of the operators.
        attention: of the language model.
        factors: by which predicted times are multiplied; those of attention are in `attention` already.
        data: ranks that pool their tokens for the experts.
    """

    def __init__(
        self,
        model: Model,
        operators: Sequence[Operator],
        stages: Sequence[Mapping[Part, int]],
        times: OperatorTimes,
        attention: TextAttention,
        factors: Factors,
        data: int,
    ) -> None:
        self._model, self._operators, self._stages = model, operators, stages
        self._times, self._factors, self._data = times, factors, data
        self._table = attention if isinstance(attention, AttentionTable) else None

    def rows(self, columns: Mapping[str, NDArray[Any]]) -> tuple[dict[str, Floats], Floats]:
        """Seconds by class, and by where they come from.

        Args:
            columns: as `IterationCost.work` takes, and `prefilling`.

        Returns:
            Seconds of all iterations of each row, arrays of shape (rows,), for each of `KINDS`; and an array
            of shape (rows, 3): measured, interpolated, roofline.
        """
        column, iterations = mean_columns(columns, self._model.text.sliding_window)
        chunks = np.asarray(columns["prefilling"], dtype=np.float64)
        of_row = loads(self._model, **column)
        pooled = loads(self._model, **{**NO_LOAD, "tokens": column["tokens"] * self._data})["pooled"]
        seconds = {kind: np.zeros(len(iterations)) for kind in KINDS}
        sources = np.zeros((len(iterations), 3))

        def add(kind: Kind, part: Floats, source: NDArray[Any]) -> None:
            seconds[kind] += part
            for code in range(3):
                sources[:, code] += np.where(source == code, part, 0.0)

        for operator in self._operators:
            if self._table is not None and operator.over in ("prefill", "decode"):
                continue
            load = pooled if operator.over == "pooled" else of_row[operator.over]
            part, source = self._operator(operator, load)
            times = runs(operator, self._stages) * getattr(self._factors, operator.kind)
            add(operator.kind, times * np.broadcast_to(part, iterations.shape), source)
        if self._table is not None:
            add("attention", *self._table.of_rows(*_attention_sizes(column, chunks)))
        return {str(kind): part * iterations for kind, part in seconds.items()}, sources * iterations[:, None]

    def _operator(self, operator: Operator, load: Load) -> tuple[Floats, NDArray[Any]]:
        if operator.kind == "attention":
            seconds = _line(self._times.attention(operator), load)
        else:
            seconds = self._times.seconds(operator, load)
        return seconds, self._times.source(operator, load)


def _line(line: AttentionTime, load: Load) -> Floats:
    """As `AttentionTime.seconds`, of arrays."""
    busy = np.maximum(load.pairs * line.per_pair, load.kv * line.per_kv + load.units * line.per_unit)
    return np.where(load.units > 0, line.fixed + busy, 0.0)


def _attention_sizes(column: Mapping[str, Floats], chunks: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Query tokens and history of the one chunk that stands for all, decodes, and KV tokens of each.

    The log has the chunks' sums alone: they are taken to be equally long.
    """
    tokens, decodes = column["prefill_tokens"], column["decodes"]
    queries = tokens / np.sqrt(np.maximum(chunks, 1.0))
    crossed = column["prefill_pairs"] - tokens / 2 - queries**2 / 2
    history = np.maximum(crossed, 0.0) / np.maximum(queries, 1.0)
    return queries, history, decodes, column["decode_kv"] / np.maximum(decodes, 1.0)
