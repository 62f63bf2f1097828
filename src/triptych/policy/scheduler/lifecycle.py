"""A request's stay at one instance: queues by what it waits for, and the ways in, on and out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import NamedTuple

from triptych.policy.batch import Batch
from triptych.policy.decodes import DecodeSet
from triptych.policy.embeddings import EmbeddingCache
from triptych.policy.kvcache import KVCache
from triptych.policy.request import DECODE, ENCODE, PREFILL, WAITING, Image, Phase, Request, Status

_FINISHED = Status.FINISHED  # see request.py on why it is named here

Queue = OrderedDict[Request, None]
"""First in, first out, with removal from anywhere in constant time."""


class Holding(NamedTuple):
    """What a request that has moved on still occupies where it was."""

    blocks: int
    hashes: tuple[int, ...]
    """Of its leading blocks, which the prefix cache knows."""
    images: tuple[Image, ...]


class LifeCycle:
    """The requests of one instance, each in the queue of what it waits for, and what they hold.

    What moves them from one queue to the next is a `Scheduler` when it forms a batch, and `complete` when the
    batch has been run; a driver brings them with `add` and `land`, and ends them with `release` and `abort`.

    Args:
        kv: blocks for the KV cache.
        embeddings: blocks for image embeddings.
        phases: what the instance runs.
        grows: whether requests draw KV blocks as they decode.
    """

    def __init__(
        self, kv: KVCache, embeddings: EmbeddingCache | None, phases: Collection[Phase], *, grows: bool
    ) -> None:
        self.lanes: list[LifeCycle] = [self]
        """Those that share memory and queues, this one among them: see `share`."""
        self.in_flight: Batch | None = None
        """The batch under way, in a policy whose lanes share."""
        self.kv = kv
        self.embeddings = embeddings
        self.encodes_here = ENCODE in phases
        self.prefills_here = PREFILL in phases
        self.decodes_here = DECODE in phases
        self.unencoded: Queue = OrderedDict()
        """Wait for their images to be encoded."""
        self.waiting: Queue = OrderedDict()
        """Wait for prefill."""
        self.prefilling: Queue = OrderedDict()
        """Hold KV blocks; their prompt is in part computed, or about to be."""
        self.decodes = DecodeSet(kv, grows=grows)
        self.incoming: Queue = OrderedDict()
        """Wait for memory here, so that their embeddings or KV can be sent from another instance."""
        self.receiving: Queue = OrderedDict()
        """Hold memory here; their embeddings or KV are under way."""
        self.landed: Queue = OrderedDict()
        """Their KV has come; they decode from the next batch on."""
        self.held: dict[Request, Holding] = {}
        """Done here, but their embeddings or KV must stay until they have been sent on."""
        self.leaving: list[Request] = []
        """For the driver: to be run elsewhere next, `request.phase` says what. Those in `held` have
        something to be sent along; call `release` when it has been."""
        self.reserved: list[Request] = []
        """For the driver: memory has been set aside, the transfer may begin; call `land` when it is done."""
        self.preempted: list[Request] = []
        """Lost their KV in the last `schedule`; they are queued again, here or in `leaving`."""

    def __len__(self) -> int:
        """Requests that the instance is responsible for."""
        return self.queued + self.seats

    @property
    def running(self) -> int:
        """Requests that hold KV and take part in batches."""
        if len(self.lanes) == 1:
            return len(self.prefilling) + len(self.decodes.members)
        return len(self.prefilling) + sum([len(lane.decodes.members) for lane in self.lanes])

    @property
    def seats(self) -> int:
        """Those, and the ones that will run as soon as what is sent for them is there."""
        return self.running + len(self.receiving) + len(self.landed)

    @property
    def queued(self) -> int:
        """Requests that wait to be admitted."""
        return len(self.unencoded) + len(self.waiting) + len(self.incoming)

    @property
    def max_context(self) -> int:
        """Tokens of context that a single request can have here; a longer one must not be added."""
        return self.kv.blocks * self.kv.block_size

    def share(self, first: LifeCycle) -> None:
        """Becomes one more lane of `first`, before any request has come: a batch of each can be under way.

        Memory and queues are those of `first`. Only the decodes are each lane's own: a request decodes in the
        lane that computed the end of its prompt, so that it is in one batch at a time.
        """
        self.kv, self.embeddings = first.kv, first.embeddings
        self.unencoded, self.waiting, self.prefilling = first.unencoded, first.waiting, first.prefilling
        self.incoming, self.receiving, self.landed = first.incoming, first.receiving, first.landed
        self.held = first.held
        lanes = first.lanes
        self.decodes = first.decodes.beside(len(lanes))
        lanes.append(self)
        self.lanes = lanes

    def works_on(self, request: Request) -> bool:
        """Whether the batch under way has a part of the request in it."""
        batch = self.in_flight
        if batch is None:
            return False
        if request in self.decodes.members or request in batch.encoded:
            return True
        askers = [asker for asker, _ in batch.images] + [piece.request for piece in batch.chunks]
        return any(asker is request for asker in askers)

    def add(self, request: Request, *, from_elsewhere: bool = False) -> None:
        """Queues a request for its phase.

        Args:
            request: must fit: see `max_context` and `EmbeddingCache.fits`.
            from_elsewhere: its embeddings or KV are on another instance: it will show up in `reserved`
                once there is room for them.
        """
        request.status = WAITING
        request.lane = 0
        if from_elsewhere:
            self.incoming[request] = None
        elif request.phase is ENCODE:
            self.unencoded[request] = None
        else:
            self.waiting[request] = None

    def land(self, request: Request) -> None:
        """Says that what was sent for a `reserved` request has come."""
        del self.receiving[request]
        request.status = WAITING
        if request.phase is DECODE:
            self.landed[request] = None
        else:
            self.waiting[request] = None

    def release(self, request: Request) -> None:
        """Frees what a request that left still held here, now that it has been sent on."""
        blocks, hashes, images = self.held.pop(request)
        self.kv.give_back(blocks, hashes)
        if self.embeddings is not None:
            self.embeddings.give_back(images)

    def complete(self, batch: Batch, iterations: int = 1) -> tuple[list[Request], list[Request]]:
        """Moves the requests on, after the batch was run `iterations` (1 to `batch.repeat`) times.

        Returns:
            Those that got their next token from prefill (the first one, or the one after a preemption),
            and those that got their last token, for which the instance holds nothing any more.
        """
        self.in_flight = None
        finished = self.decodes.advance(iterations) if batch.decodes else []
        for request in finished:
            self.kv.release(request)
            request.status = _FINISHED
        prefilled: list[Request] = []
        for request, tokens, _, last in batch.chunks:
            request.context_tokens += tokens * iterations
            request.in_flight_tokens -= tokens
            if last:
                prefilled.append(request)
                self._after_prefill(request, finished)
        for request in batch.encoded:
            self._after_encode(request)
        return prefilled, finished

    def abort(self, request: Request, status: Status = Status.ABORTED) -> None:
        """Drops a request wherever it is here and frees all it holds; not between schedule and complete.

        A request that is being received must land first, and one that has left is no longer this
        scheduler's: `release` frees what it held.

        Raises:
            KeyError: the request is not here, or is being received.
        """
        decodes = self.lanes[request.lane].decodes
        if request in decodes.members:
            decodes.leave(request)
        else:
            queues = (self.unencoded, self.waiting, self.prefilling, self.incoming, self.landed)
            queue = next((queue for queue in queues if request in queue), None)
            if queue is None:
                raise KeyError(request.id)
            del queue[request]
        self._free(request)
        request.status = status

    def _after_encode(self, request: Request) -> None:
        request.phase = PREFILL
        if self.prefills_here:
            request.status = WAITING
            self.waiting[request] = None
        else:
            self._send_on(request)

    def _after_prefill(self, request: Request, finished: list[Request]) -> None:
        del self.prefilling[request]
        request.generated_tokens += 1
        if self.embeddings is not None:
            self.embeddings.release(request)
        if request.remaining_tokens == 0:
            self.kv.release(request)
            request.status = _FINISHED
            finished.append(request)
            return
        request.phase = DECODE
        if self.decodes_here:
            self.decodes.join(request)
        else:
            self._send_on(request)

    def _send_on(self, request: Request) -> None:
        """Lets a request go to another instance; what it holds stays until it has been sent."""
        hashes = request.block_hashes[: request.shared_blocks]
        images = request.images[: request.encoded_images]
        self.held[request] = Holding(request.blocks, hashes, images)
        request.blocks = request.shared_blocks = request.encoded_images = 0
        request.status = WAITING
        self.leaving.append(request)

    def _free(self, request: Request) -> None:
        self.kv.release(request)
        if self.embeddings is not None:
            self.embeddings.release(request)
