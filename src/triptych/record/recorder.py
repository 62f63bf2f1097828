"""Collects a run's record while it happens: plain appends and stores, made into columns at the end."""

from __future__ import annotations

from array import array
from math import isnan, nan

import numpy as np

from triptych.policy import Request, Status
from triptych.record.columns import SPAN_COLUMNS, TRANSFER_COLUMNS, packed_row, packer

_CODES = {status: code for code, status in enumerate(Status)}

SPAN_ROW = packed_row(SPAN_COLUMNS)
TRANSFER_ROW = packed_row(TRANSFER_COLUMNS)
_pack_span = packer(SPAN_ROW)
_pack_transfer = packer(TRANSFER_ROW)


class Recorder:
    """One cell a request and column; the cells of a request are indexed by its id.

    Args:
        requests: how many there will be, as far as that is known; `open` adds further ones.
    """

    def __init__(self, requests: int) -> None:
        self._times: list[array[float]] = []
        self._counts: list[tuple[array[int], int]] = []

        def times() -> array[float]:
            self._times.append(array("d", [nan]) * requests)
            return self._times[-1]

        def counts(initial: int = 0, code: str = "q") -> array[int]:
            self._counts.append((array(code, [initial]) * requests, initial))
            return self._counts[-1][0]

        self.arrival = times()
        self.prompt_tokens = counts()
        self.generated_tokens = counts()
        self.images = counts(code="i")
        self.image_tokens = counts()
        self.cached_tokens = counts()
        self.preemptions = counts(code="i")
        self.status = counts(0, "b")
        self.encode_instance = counts(-1, "i")
        self.prefill_instance = counts(-1, "i")
        self.decode_instance = counts(-1, "i")
        self.encode_start = times()
        self.encode_end = times()
        self.prefill_ready = times()
        self.prefill_start = times()
        self.first_token = times()
        self.decode_ready = times()
        self.end = times()
        self.transfer_seconds = array("d", [0.0]) * requests
        self.token_time = times()
        """When the token came out that precedes the present stay in a decode set."""
        self.spans = bytearray()
        """Rows of `SPAN_ROW`."""
        self.transfers = bytearray()
        """Rows of `TRANSFER_ROW`."""

    def open(self) -> int:
        """Adds a request to those that were foreseen; returns its id."""
        for times in self._times:
            times.append(nan)
        for counts, initial in self._counts:
            counts.append(initial)
        self.transfer_seconds.append(0.0)
        return len(self.arrival) - 1

    def arrived(self, request: Request, now: float) -> None:
        """Notes that a request has come, and what it brings."""
        index = request.id
        self.arrival[index] = now
        self.prompt_tokens[index] = request.prompt_tokens
        if request.images:
            self.images[index] = len(request.images)
            self.image_tokens[index] = request.image_tokens
        else:
            self.prefill_ready[index] = now

    def close_span(self, request: Request, lane: int, leave: int) -> None:
        """Notes that a request took part in a lane's decode steps from its join up to `leave`."""
        self.spans += _pack_span(request.id, lane, request.joined_step, leave, self.token_time[request.id])

    def transfer(
        self, request: Request, kv: bool, source: int, target: int, start: float, end: float, size: float
    ) -> None:
        """Notes a transfer of `size` bytes between instances."""
        self.transfer_seconds[request.id] += end - start
        self.transfers += _pack_transfer(request.id, kv, source, target, start, end, size)

    def gave_up(self, request: Request, status: Status, generated: int, now: float) -> None:
        """Notes that a client waits no longer: what becomes of its request from now on does not count."""
        self._end(request, status, generated, now)

    def has_ended(self, request: Request) -> bool:
        """Whether nothing more is to be noted of a request."""
        return not isnan(self.end[request.id])

    def close(self, request: Request, now: float) -> None:
        """Notes that a request has ended, how, and what it got; not if its client has given up before."""
        if isnan(self.end[request.id]):
            self._end(request, request.status, request.generated_tokens, now)

    def _end(self, request: Request, status: Status, generated: int, now: float) -> None:
        index = request.id
        self.end[index] = now
        self.status[index] = _CODES[status]
        self.generated_tokens[index] = generated
        self.cached_tokens[index] = request.cached_tokens
        self.preemptions[index] = request.preemptions

    def column(self, name: str) -> np.ndarray:
        """A column as an array that shares its memory."""
        values: array[float] | array[int] = getattr(self, name)
        return np.frombuffer(values, dtype=values.typecode) if len(values) else np.array([])
