"""What a lane writes down while it works, the same under every clock: its batches, and what requests got."""

from __future__ import annotations

from math import isnan

from triptych.policy import Batch, DecodeSet, Request, Scheduler, Status
from triptych.record.columns import BATCH_ROW, packer
from triptych.record.recorder import Recorder

_pack_row = packer(BATCH_ROW)


class Journal:
    """The log of one scheduler's batches, and its part of what a run notes of each request.

    Whoever drives the scheduler calls `formed` after `schedule`, `ran` after `complete`,
    and `abort` instead of `Scheduler.abort`.

    Args:
        recorder: of the run.
        scheduler: of the lane.
        instance: number of the instance.
        number: of the lane over the whole run.
    """

    __slots__ = ("_free", "_waiting", "instance", "number", "recorder", "rows", "scheduler")

    def __init__(self, recorder: Recorder, scheduler: Scheduler, *, instance: int, number: int) -> None:
        self.recorder = recorder
        self.scheduler = scheduler
        self.instance = instance
        self.number = number
        self.rows = bytearray()
        """Of `record.columns.BATCH_ROW`."""
        self._free = self._waiting = 0

    def formed(self, batch: Batch | None, now: float) -> None:
        """Notes who was preempted, who still waits, and whose work begins with the batch."""
        scheduler = self.scheduler
        self._free = scheduler.kv.free
        if scheduler.preempted:
            self._note_preempted()
        if batch is None:
            return
        self._waiting = _still_waiting(scheduler, batch)
        prefill_start = self.recorder.prefill_start
        for request, _, _, _ in batch.chunks:
            if not prefill_start[request.id] >= 0:
                prefill_start[request.id] = now
                self.recorder.prefill_instance[request.id] = self.instance
        if batch.images or batch.encoded:
            self._note_encoding(batch, now)

    def ran(
        self,
        batch: Batch,
        iterations: int,
        *,
        start: float,
        first: float,
        growth: float,
        now: float,
        prefilled: list[Request],
        finished: list[Request],
    ) -> None:
        """Notes that a batch has been run and what `complete` said of it.

        Args:
            batch: that was formed last.
            iterations: how many times it was run.
            start: when the first of them began.
            first: seconds of the first.
            growth: seconds by which each further one took longer.
            now: when the last ended.
            prefilled: requests that got a token from prefill.
            finished: requests that got their last.
        """
        scheduler = self.scheduler
        patches = patch_pairs = 0
        if batch.images:
            patches = sum(image.patches for _, image in batch.images)
            patch_pairs = sum(image.patches * image.patches for _, image in batch.images)
        kv_used = scheduler.kv.blocks - self._free
        drawn = scheduler.decodes.drawn if batch.decodes else 0
        self.rows += _pack_row(
            start,
            first,
            growth,
            iterations,
            batch.prefill_tokens,
            batch.prefill_pairs,
            batch.prefill_kv,
            batch.sampled,
            batch.decodes,
            batch.decode_kv,
            batch.padding,
            len(batch.images),
            patches,
            patch_pairs,
            kv_used,
            kv_used + drawn,
            self._waiting,
            len(batch.chunks),
        )
        for request in prefilled:
            self._note_prefilled(request, now)
        for request in finished:
            if request.joined_step >= 0:
                self._close_span(request)
            self.recorder.close(request, now)
        if batch.encoded:
            self._note_encoded(batch, now)

    def gave_up(self, request: Request, status: Status, now: float, iterations: int = 0) -> None:
        """Notes that the request's client waits no longer; what works on it may go on for a while.

        Args:
            request: that is here, or on its way.
            status: how it ends.
            now: when.
            iterations: of the batch that runs, those with decodes that have ended by now.
        """
        if self.recorder.has_ended(request):
            return
        decodes, generated = self._decodes(request), request.generated_tokens
        if request in decodes.members:
            generated = decodes.generated(request) + iterations
            self.recorder.close_span(request, self._lane(request), decodes.step + iterations)
        self.recorder.gave_up(request, status, generated, now)

    def abort(self, request: Request, status: Status, now: float) -> None:
        """Drops a request from the scheduler; not between `schedule` and `complete`."""
        decoding = request in self._decodes(request).members
        self.scheduler.abort(request, status)
        if decoding:
            self._close_span(request)
        self.recorder.close(request, now)

    def cut_short(self, request: Request, now: float) -> None:
        """Notes where a request stands that has not ended when the run does."""
        decodes = self._decodes(request)
        if request in decodes.members:
            decodes.leave(request)
            self._close_span(request)
        self.recorder.close(request, now)

    def _close_span(self, request: Request) -> None:
        """Notes that a request decodes no longer."""
        if not self.recorder.has_ended(request):
            self.recorder.close_span(request, self._lane(request), self._decodes(request).step)

    def _decodes(self, request: Request) -> DecodeSet:
        """Where the request decodes, if it does: perhaps in another lane that shares the queue."""
        return self.scheduler.lanes[request.lane].decodes

    def _lane(self, request: Request) -> int:
        """The number of that lane over the whole run."""
        return self.number - self.scheduler.decodes.lane + request.lane

    def _note_prefilled(self, request: Request, now: float) -> None:
        recorder, index = self.recorder, request.id
        if recorder.has_ended(request):
            return
        recorder.token_time[index] = now
        if request.generated_tokens == 1:
            recorder.first_token[index] = now
            if request.joined_step >= 0:
                recorder.decode_ready[index] = now
                recorder.decode_instance[index] = self.instance

    def _note_preempted(self) -> None:
        for request in self.scheduler.preempted:
            if request.joined_step >= 0:
                self._close_span(request)

    def _note_encoding(self, batch: Batch, now: float) -> None:
        recorder = self.recorder
        for request in [*(request for request, _ in batch.images), *batch.encoded]:
            if not recorder.encode_start[request.id] >= 0:
                recorder.encode_start[request.id] = now
                recorder.encode_instance[request.id] = self.instance

    def _note_encoded(self, batch: Batch, now: float) -> None:
        recorder = self.recorder
        for request in batch.encoded:
            first = isnan(recorder.encode_end[request.id])  # a second time is after a preemption
            if first and not recorder.has_ended(request):
                recorder.encode_end[request.id] = now
                if self.scheduler.prefills_here:
                    recorder.prefill_ready[request.id] = now


def _still_waiting(scheduler: Scheduler, batch: Batch) -> int:
    """Requests that wait while the batch runs; one of whose images it encodes only some is in it."""
    partly = next(iter(scheduler.unencoded), None)
    return scheduler.queued - any(request is partly for request, _ in batch.images)
