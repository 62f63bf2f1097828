"""A log that is on disk as far as it has come, for the record to be whole although its worker dies.

A file beside the run folder holds a frame for each turn of the engine: what is new of batches and of stays in
decode sets, and requests as they stand now, each as packed rows. It is written without buffers, so that what
a worker has done outlives it, however it ends; a frame that was cut off is left out.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from triptych.engine.log import Log
from triptych.policy import Batch, Request, Scheduler, Status
from triptych.record.columns import BATCH_ROW, REQUEST_COLUMNS, packed_row, packer
from triptych.record.recorder import SPAN_ROW
from triptych.spec.base import SpecError

Table = npt.NDArray[np.void]

_CODES = {status: code for code, status in enumerate(Status)}
_RETRY = 1.0
"""Seconds until writing is tried again where it failed."""
_LENGTH = struct.Struct("<I")
_KNOWN = ("output_tokens", "status", "generated_tokens", "cached_tokens", "preemptions")
"""Columns that the recorder has only when a request ends: the request itself knows them before."""
_RECORDED = tuple(name for name in REQUEST_COLUMNS if name not in {"id", *_KNOWN})
_ROW = packed_row(
    {name: REQUEST_COLUMNS[name] for name in ("id", *_RECORDED, *_KNOWN)}
    | {"status": ("int8", "position among statuses"), "joined": ("int64", "step; -1: it does not decode")}
    | {"token_time": ("float64", "of the token before it joined")}
)
_pack = packer(_ROW)


class _Head(msgspec.Struct, frozen=True, array_like=True):
    """The first frame."""

    zero: int
    """Reading of the monotonic clock that is time 0, in nanoseconds."""
    meta: str
    """Of the record, as JSON."""
    deployment: str
    """As it is served, as JSON."""


class _Frame(msgspec.Struct, frozen=True, array_like=True):
    """What is new since the frame before."""

    batches: bytes
    cpu_seconds: list[float]
    spans: bytes
    requests: bytes


_decode_head = msgspec.msgpack.Decoder(_Head).decode
_decode_frame = msgspec.msgpack.Decoder(_Frame).decode


class SpooledLog(Log):
    """A log that also writes down at each turn what is new.

    Args:
        scheduler: whose batches they are.
        record: run folder that the log is of.
        zero: reading of the monotonic clock that is time 0, in nanoseconds.
        meta: of the record.
        deployment: as it is served, as JSON.

    Raises:
        SpecError: nothing can be written there.
    """

    def __init__(
        self, scheduler: Scheduler, record: Path, zero: int, meta: dict[str, Any], deployment: str
    ) -> None:
        super().__init__(scheduler)
        self._scheduler = scheduler
        self._columns = [getattr(self.recorder, name) for name in _RECORDED]
        self._changed: dict[Request, None] = {}
        self._batches = self._spans = 0
        """Bytes of rows that have been written."""
        file = record.absolute().with_name(f".{record.absolute().name}.{zero}.spool")
        file.parent.mkdir(parents=True, exist_ok=True)
        self._size = 0
        """Bytes of whole frames."""
        self._full_at = -inf
        """When a frame could not be written; what was in it is part of the next that can."""
        try:
            self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._append(_Head(zero, json.dumps(meta), deployment))
        except OSError as error:
            file.unlink(missing_ok=True)
            raise SpecError("--record", f"cannot be written: {error.strerror}", file=record) from None

    def arrived(self, request: Request, now: float) -> int:
        self._changed[request] = None
        return super().arrived(request, now)

    def refused(self, request: Request, now: float) -> None:
        super().refused(request, now)
        self._changed[request] = None

    def formed(self, batch: Batch | None, now: float) -> None:
        super().formed(batch, now)
        self._note(self._scheduler.preempted)
        if batch is not None:
            self._note(chunk[0] for chunk in batch.chunks)
            self._note(request for request, _ in batch.images)
            self._note(batch.encoded)
        self._flush()

    def ran(
        self,
        batch: Batch,
        *,
        start: float,
        seconds: float,
        cpu_seconds: float,
        now: float,
        prefilled: list[Request],
        finished: list[Request],
    ) -> None:
        super().ran(
            batch,
            start=start,
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            now=now,
            prefilled=prefilled,
            finished=finished,
        )
        self._note(prefilled)
        self._note(finished)
        self._note(batch.encoded)

    def abort(self, request: Request, status: Status, now: float) -> None:
        super().abort(request, status, now)
        self._changed[request] = None

    def close(self) -> None:
        """Writes what is not written yet; to be called once, at the end."""
        self._full_at = -inf
        self._flush()
        os.close(self._file)

    def _note(self, requests: Iterable[Request]) -> None:
        self._changed.update(dict.fromkeys(requests))

    def _flush(self) -> None:
        if monotonic() < self._full_at + _RETRY:
            return
        batches, spans = self.journal.rows, self.recorder.spans
        ran = (len(batches) - self._batches) // BATCH_ROW.itemsize
        frame = _Frame(
            bytes(batches[self._batches :]),
            self.cpu_seconds[len(self.cpu_seconds) - ran :].tolist(),
            bytes(spans[self._spans :]),
            b"".join(map(self._row, self._changed)),
        )
        if not (frame.batches or frame.spans or frame.requests):
            return
        try:
            self._append(frame)
        except OSError as error:
            if self._full_at == -inf:
                print(
                    f"worker: what is recorded would not outlive it: {error.strerror}",
                    file=sys.stderr,
                    flush=True,
                )
            self._full_at = monotonic()
            return
        self._full_at = -inf
        self._batches, self._spans = len(batches), len(spans)
        self._changed.clear()

    def _row(self, request: Request) -> bytes:
        number, recorder = request.id, self.recorder
        ended = recorder.has_ended(request)  # perhaps before what became of it since
        decodes = request in self._scheduler.decodes.members
        return _pack(
            number,
            *[column[number] for column in self._columns],
            self.output_tokens[number],
            recorder.status[number] if ended else _CODES[request.status],
            recorder.generated_tokens[number] if ended else request.generated_tokens,
            request.cached_tokens,
            request.preemptions,
            request.joined_step if decodes else -1,
            recorder.token_time[number],
        )

    def _append(self, part: _Head | _Frame) -> None:
        """Writes a frame, all of it or nothing.

        Raises:
            OSError: it cannot be written.
        """
        data = msgspec.msgpack.encode(part)
        frame = _LENGTH.pack(len(data)) + data
        try:
            if os.write(self._file, frame) < len(frame):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.ftruncate(self._file, self._size)  # what came after a part would be read amiss
            os.lseek(self._file, self._size, os.SEEK_SET)
            raise
        self._size += len(frame)


@dataclass(frozen=True)
class Spooled:
    """What a worker had done when it ended."""

    zero: int
    """Reading of the monotonic clock that is time 0, in nanoseconds."""
    meta: dict[str, Any]
    """Of the record."""
    requests: Table
    """REQUEST_COLUMNS, ordered by id = 0, 1, 2, ..."""
    batches: Table
    """Rows of `BATCH_ROW`."""
    cpu_seconds: npt.NDArray[np.float64]
    """Of each batch."""
    spans: Table
    """Rows of `SPAN_ROW`; stays that had no end are over at the last batch."""

    @property
    def steps(self) -> int:
        """Decode iterations."""
        return int((self.batches["decodes"] > 0).sum())


def spool_files(record: Path) -> list[Path]:
    """The files of all workers that kept, or keep, the record of a run folder."""
    record = record.absolute()
    name = re.compile(rf"\.{re.escape(record.name)}\.\d+\.spool")
    return sorted(file for file in record.parent.glob(".*.spool") if name.fullmatch(file.name))


def is_being_written(file: Path) -> bool:
    """Whether the worker that writes a spool still lives."""
    with file.open("rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def spooled_deployment(file: Path) -> Any:
    """The deployment that a worker served, as plain data; None: it did not come to writing anything."""
    first = next(_frames(file.read_bytes()), None)
    return None if first is None else json.loads(_decode_head(first).deployment)


def read_spool(file: Path) -> Spooled | None:
    """What a worker wrote; None: it did not come to writing anything."""
    frames = _frames(file.read_bytes())
    first = next(frames, None)
    if first is None:
        return None
    head = _decode_head(first)
    parts = [_decode_frame(data) for data in frames]
    changes = np.frombuffer(b"".join(part.requests for part in parts), _ROW)
    requests = np.zeros(int(changes["id"].max(initial=-1)) + 1, _ROW)
    requests[changes["id"]] = changes  # the last of each request stands
    batches = np.frombuffer(b"".join(part.batches for part in parts), BATCH_ROW)
    spans = np.frombuffer(b"".join(part.spans for part in parts), SPAN_ROW)
    ended = np.isin(requests["status"], [code for status, code in _CODES.items() if status.ended])
    decoding = requests[~ended & (requests["joined"] >= 0)]
    steps = int((batches["decodes"] > 0).sum())
    cut = np.zeros(len(decoding), SPAN_ROW)
    cut["request"], cut["join"], cut["leave"] = decoding["id"], decoding["joined"], steps
    cut["token_time"] = decoding["token_time"]
    requests["generated_tokens"][decoding["id"]] += steps - decoding["joined"]
    return Spooled(
        zero=head.zero,
        meta=json.loads(head.meta),
        requests=requests,
        batches=batches,
        cpu_seconds=np.array([seconds for part in parts for seconds in part.cpu_seconds]),
        spans=np.concatenate([spans, cut]),
    )


def _frames(data: bytes) -> Iterator[bytes]:
    """The frames that are whole."""
    at = 0
    while at + _LENGTH.size <= len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if at + length > len(data):
            return
        yield data[at : at + length]
        at += length
