"""From what was noted while a run happened to the columns of its record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from triptych.record.columns import BATCH_ROW
from triptych.record.journal import Journal
from triptych.record.logs import Columns, LaneLog, Spans, Transfers
from triptych.record.recorder import SPAN_ROW, TRANSFER_ROW, Recorder

_REQUEST_COLUMNS = (
    *("status", "arrival", "prompt_tokens", "generated_tokens", "images", "image_tokens", "cached_tokens"),
    *("preemptions", "encode_instance", "prefill_instance", "decode_instance", "encode_start", "encode_end"),
    *("prefill_ready", "prefill_start", "first_token", "decode_ready", "end", "transfer_seconds"),
)


class Work(Protocol):
    """What is known of the work in batches (`cost.IterationCost` is one)."""

    def work(self, log: Columns) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """FLOP and bytes of each row of a log, shape (rows,)."""


def request_columns(
    recorder: Recorder, output_tokens: npt.NDArray[np.int64]
) -> dict[str, npt.NDArray[np.generic]]:
    """REQUEST_COLUMNS.

    Args:
        recorder: of the run.
        output_tokens: asked for, shape (requests,).
    """
    columns = {name: recorder.column(name) for name in _REQUEST_COLUMNS}
    columns["id"] = np.arange(len(output_tokens))
    columns["output_tokens"] = output_tokens
    return columns


def lane_log(
    journal: Journal, number: int, cost: Work, cpu_seconds: Sequence[float] | None = None
) -> LaneLog:
    """The batches of a lane, the `number`-th of its instance, with the work in them."""
    rows = np.frombuffer(journal.rows, BATCH_ROW)
    log = {name: rows[name] for name in BATCH_ROW.names or ()}
    log["flops"], log["bytes"] = cost.work(log)
    log["cpu_seconds"] = np.full(len(rows), np.nan) if cpu_seconds is None else np.array(cpu_seconds)
    return LaneLog(journal.instance, number, log)


def spans(recorder: Recorder) -> Spans:
    """Stays in decode sets, in time order for each request."""
    table = np.frombuffer(recorder.spans, SPAN_ROW)
    return Spans(_columns(table[np.argsort(table["request"], kind="stable")], SPAN_ROW.names or ()))


def transfers(recorder: Recorder) -> Transfers:
    """What was sent between instances."""
    return Transfers(_columns(np.frombuffer(recorder.transfers, TRANSFER_ROW), TRANSFER_ROW.names or ()))


def _columns(table: npt.NDArray[np.void], names: Sequence[str]) -> dict[str, npt.NDArray[np.generic]]:
    return {name: np.ascontiguousarray(table[name]) for name in names}
