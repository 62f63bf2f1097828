"""The predicted time of batches by class of operator, and by what each part of it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.cost.attention import AttentionTable
from triptych.cost.linear import AttentionTime, TextAttention
from triptych.cost.loads import NO_LOAD, Floats, Load, loads
from triptych.cost.operators import Kind, Operator, Part
from triptych.cost.placement import runs
from triptych.cost.roofline import OperatorTimes
from triptych.cost.source import ROOFLINE
from triptych.cost.work import mean_columns
from triptych.spec.calibration import Factors
from triptych.spec.model import Model

KINDS: tuple[Kind, ...] = ("matmul", "attention", "memory", "network")
ROOFLINE_DEVIATION: dict[Kind, float] = {"matmul": 0.12, "attention": 0.71, "memory": 0.76, "network": 0.76}
"""Root mean square of log(measured / roofline) of all sizes of an operator together, over the operators of
nine published profiles (vLLM 0.19 on RTX PRO 6000 and RTX 4090, Vidur on A100). Attention is that of prompts.
Collectives are taken to be as unsure as what memory bounds."""
DECODE_DEVIATION = 0.04
"""The same, of decode attention: it streams KV, and rooflines are good at that."""
TABLE = "attention of a table"


@dataclass(frozen=True)
class _Part:
    name: str
    kind: Kind
    seconds: Floats
    source: NDArray[Any]


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
        count = len(columns["iterations"])
        seconds = {str(kind): np.zeros(count) for kind in KINDS}
        sources = np.zeros((count, 3))
        for part in self._parts(columns):
            seconds[part.kind] += part.seconds
            for code in range(3):
                sources[:, code] += np.where(part.source == code, part.seconds, 0.0)
        return seconds, sources

    def deviation(self, columns: Mapping[str, NDArray[Any]]) -> float:
        """Standard deviation of the logarithm of the predicted time of all rows together.

        What an estimator gets wrong of an operator it gets wrong alike in every batch, and kernels of one
        class err together; classes err independently.

        Args:
            columns: as of `rows`.
        """
        squares, total = dict.fromkeys(KINDS, 0.0), 0.0
        for part in self._parts(columns):
            unknown = DECODE_DEVIATION if part.name == "decode attention" else ROOFLINE_DEVIATION[part.kind]
            known = np.where(part.source == ROOFLINE, unknown, self._times.deviation(part.name))
            squares[part.kind] += float(np.sum(part.seconds * known))
            total += float(np.sum(part.seconds))
        return float(np.sqrt(sum(square**2 for square in squares.values()))) / total if total else 0.0

    def _parts(self, columns: Mapping[str, NDArray[Any]]) -> Iterator[_Part]:
        """Every operator's seconds, of all iterations of each row."""
        column, iterations = mean_columns(columns, self._model.text)
        chunks = np.asarray(columns["prefilling"], dtype=np.float64)
        of_row = loads(self._model, **column)
        pooled = loads(self._model, **{**NO_LOAD, "tokens": column["tokens"] * self._data})["pooled"]
        for operator in self._operators:
            if self._table is not None and operator.over in ("prefill", "decode"):
                continue
            load = pooled if operator.over == "pooled" else of_row[operator.over]
            part, source = self._operator(operator, load)
            times = runs(operator, self._stages) * getattr(self._factors, operator.kind)
            yield _Part(operator.name, operator.kind, times * part * iterations, source)
        if self._table is not None:
            seconds, source = self._table.of_rows(*_attention_sizes(column, chunks))
            yield _Part(TABLE, "attention", seconds * iterations, source)

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


def _attention_sizes(column: Mapping[str, Floats], chunks: Floats) -> tuple[Floats, ...]:
    """Arguments of `AttentionTable.of_rows`: the log has the chunks' sums, as if they were equally long."""
    tokens, decodes = column["prefill_tokens"], column["decodes"]
    crossed = column["prefill_pairs"] - tokens / 2
    mean = column["decode_kv"] / np.maximum(decodes, 1.0)
    return tokens, crossed, np.maximum(chunks, 1.0), decodes, mean
