"""What every scheduler is: one method that forms a batch, and what policies make it of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import ClassVar

from triptych.policy.batch import Batch, Chunk
from triptych.policy.embeddings import EmbeddingCache
from triptych.policy.kvcache import KVCache
from triptych.policy.request import (
    DECODE,
    ENCODE,
    PREFILL,
    RUNNING,
    TRANSFERRING,
    WAITING,
    Image,
    Phase,
    Request,
)
from triptych.policy.scheduler.lifecycle import LifeCycle


class Scheduler(LifeCycle, ABC):
    """Forms the batches of one instance (or of one lane of it: a data rank, a batch in a pipeline).

    Its driver, with whatever clock, goes round and round:

        batch = scheduler.schedule()              # None: nothing can run until something arrives
        ...run it, up to batch.repeat times...
        prefilled, finished = scheduler.complete(batch, times)

    and, after either call, serves and clears what has gathered in `leaving` and `reserved`. A request enters
    by `add` with the phase it needs here. Between `schedule` and `complete` requests may be added, and those
    under way may `land`; nothing else may change.

    Args:
        kv: blocks for the KV cache; none at all where only images are encoded.
        embeddings: blocks for image embeddings; None where the model takes no images or the instance
            neither encodes nor prefills.
        phases: what the instance runs.
        max_batch: requests that may hold KV at once.
        max_tokens: token budget of one iteration where it is not the policy's default; at least `max_batch`,
            so that decodes alone never exceed it.
        max_patches: patches of one iteration where they are not the default.
        watermark: share of KV blocks kept free on admission where it is not the policy's default.
    """

    grows: ClassVar[bool] = True
    """Whether requests draw KV blocks as they decode, rather than reserve for their whole length."""
    shares: ClassVar[bool] = False
    """Whether the lanes of a pipeline share memory and queues; if not, each has its part of them."""
    default_tokens: ClassVar[int] = 0
    """`max_tokens` where none is given, for the policies that have such a budget."""
    default_patches: ClassVar[int] = 65_536
    """`max_patches` where none is given."""
    default_watermark: ClassVar[float] = 0.0
    """`watermark` where none is given."""

    def __init__(
        self,
        kv: KVCache,
        embeddings: EmbeddingCache | None = None,
        *,
        phases: Collection[Phase] = tuple(Phase),
        max_batch: int = 256,
        max_tokens: int | None = None,
        max_patches: int | None = None,
        watermark: float | None = None,
    ) -> None:
        super().__init__(kv, embeddings, phases, grows=self.grows)
        self.max_batch = max_batch
        self.max_tokens = self.default_tokens if max_tokens is None else max_tokens
        self.max_patches = self.default_patches if max_patches is None else max_patches
        share = self.default_watermark if watermark is None else watermark
        self._watermark_blocks = int(share * kv.blocks)

    @abstractmethod
    def schedule(self) -> Batch | None:
        """The next batch, or None if nothing can run. Blocks for it have been taken."""

    # What policies are made of ----------------------------------------------------------------------

    def _settle(self) -> None:
        """Opens a round: KV that has come joins the decodes, freed memory is set aside for KV to come."""
        if self.preempted:
            self.preempted = []
        if self.landed:
            for request in self.landed:
                request.status = RUNNING
                self.decodes.join(request)
            self.landed.clear()
        if self.incoming:
            self._reserve()

    def _reserve(self) -> None:
        """Sets memory aside for what is to be sent here, in order of arrival."""
        while self.incoming:
            request = next(iter(self.incoming))
            if request.phase is DECODE:
                if self.seats >= self.max_batch or not self._admit_kv(request):
                    return
            elif self.embeddings is None or not self.embeddings.claim_all(request):
                return
            del self.incoming[request]
            self.receiving[request] = None
            request.status = TRANSFERRING
            self.reserved.append(request)

    def _admit_kv(self, request: Request) -> bool:
        """Takes blocks for a request whose KV will be sent here."""
        tokens = request.context_tokens if self.grows else request.longest_context
        return self.kv.take(request, tokens, keep_free=self._keep_free())

    def _keep_free(self) -> int:
        """Blocks to leave free on admission: none if all are, or a large request would never start."""
        return self._watermark_blocks if self.kv.used else 0

    def _may_admit(self) -> bool:
        """Whether to look at the next waiting request; never in a round that had to preempt."""
        if not self.waiting or self.preempted or (len(self.lanes) > 1 and self._others_wait()):
            return False
        return self.seats < self.max_batch

    def _start(self, request: Request, tokens: int, hits: int, keep_free: int = 0) -> bool:
        """Admits the first waiting request: takes blocks for `tokens` of context, `hits` of them cached."""
        if not self.kv.take(request, tokens, hits, keep_free):
            return False
        del self.waiting[request]
        self.prefilling[request] = None
        request.status = RUNNING
        request.joined_step = -1
        request.context_tokens = cached = hits * self.kv.block_size
        if request.preemptions == 0:
            request.cached_tokens = cached
        return True

    def _chunk(self, request: Request, budget: int) -> Chunk:
        """The next piece of the request's prompt, at most `budget` tokens."""
        history = request.context_tokens + request.in_flight_tokens
        rest = request.prompt_tokens + request.generated_tokens - history
        tokens = rest if rest <= budget else budget
        request.in_flight_tokens += tokens
        if self.kv.prefix_cache:
            self.kv.enter(request, history + tokens)
        # As Chunk(...), without the call of a Python function that a named tuple's constructor is.
        return tuple.__new__(Chunk, (request, tokens, history, tokens == rest))

    def _whole_prompts(self) -> list[Chunk]:
        """Admits whole prompts, each with all the memory it can ever need, in order of arrival."""
        chunks: list[Chunk] = []
        while self._may_admit():
            request = next(iter(self.waiting))
            if not self._start(request, request.longest_context, self.kv.match(request)):
                break
            chunks.append(self._chunk(request, request.prefill_tokens))
        return chunks

    def _make_room(self) -> bool:
        """Takes the blocks that the coming decode iteration needs, preempting the latest if need be.

        Returns:
            Whether there was room; if not, who should make it is under way in another lane.
        """
        while not self.decodes.draw_blocks():
            victim = self._latest()
            if self._under_way(victim):
                return False
            self._preempt(victim)
        return True

    def _latest(self) -> Request:
        """Whom to preempt: the request that was admitted last."""
        if self.prefilling:
            return next(reversed(self.prefilling))
        decodes = self.decodes
        for lane in self.lanes:
            if lane.decodes is not decodes and lane.decodes.joined_last() > decodes.joined_last():
                decodes = lane.decodes
        return decodes.youngest()

    def _under_way(self, request: Request) -> bool:
        """Whether another lane is at work on the request, so that its blocks cannot be taken now."""
        if request.in_flight_tokens:
            return True
        lane = self.lanes[request.lane]
        return lane.in_flight is not None and request in lane.decodes.members

    def _others_wait(self) -> bool:
        """Whether other lanes have decodes that memory was too short for, which come before new requests."""
        for lane in self.lanes:
            if lane is not self and lane.in_flight is None and lane.decodes.members:
                return True
        return False

    def _preempt(self, request: Request) -> None:
        """Takes a request's KV away; it starts again, generated tokens and all, before all others."""
        if request in self.prefilling:
            del self.prefilling[request]
        else:
            self.lanes[request.lane].decodes.leave(request)
        self.kv.release(request)
        request.context_tokens = 0
        request.preemptions += 1
        request.status = WAITING
        self.preempted.append(request)
        embedded = request.encoded_images == len(request.images)
        request.phase = PREFILL if embedded else ENCODE
        if embedded and self.prefills_here:
            self.waiting[request] = None
            self.waiting.move_to_end(request, last=False)
        elif not embedded and self.encodes_here:
            self._encode_next(request)
        else:
            self.leaving.append(request)

    def _encode_next(self, request: Request) -> None:
        """Puts a request before all that wait to be encoded, but for one that is half done.

        That one has claimed memory for some of its images and lets go of it only when it has them all: to
        wait for it in front of it would be to wait for ever.
        """
        first = next(iter(self.unencoded), None)
        self.unencoded[request] = None
        self.unencoded.move_to_end(request, last=False)
        if first is not None and first.encoded_images:
            self.unencoded.move_to_end(first, last=False)

    def _images(self) -> tuple[list[tuple[Request, Image]], list[Request]]:
        """Images to encode next, and the requests that have all their embeddings after that."""
        images: list[tuple[Request, Image]] = []
        complete: list[Request] = []
        patches = 0
        while self.unencoded:
            assert self.embeddings is not None
            request = next(iter(self.unencoded))
            while request.encoded_images < len(request.images):
                image = request.images[request.encoded_images]
                known = self.embeddings.knows(image)
                if images and not known and patches + image.patches > self.max_patches:
                    return images, complete
                hit = self.embeddings.claim(request)
                if hit is None:
                    return images, complete
                if not hit:
                    images.append((request, image))
                    patches += image.patches
            del self.unencoded[request]
            request.status = RUNNING
            complete.append(request)
        return images, complete

    def _batch(self, chunks: list[Chunk], encode: bool = True, padding: int = 0) -> Batch | None:
        """The batch of these chunks, all decodes and, if asked for, what images can be encoded."""
        decodes = len(self.decodes.members)
        kv_read = self.decodes.context_tokens + decodes
        longest = self.decodes.longest() + 1 if decodes else 0
        if self.unencoded and encode:
            images, encoded = self._images()
            if images or encoded:
                return Batch(chunks, decodes, kv_read, 1, padding, images, encoded, longest)
        if chunks:
            return Batch(chunks, decodes, kv_read, 1, padding, longest_kv=longest)
        if decodes:
            # After a preemption nobody was admitted to the memory that it freed: that is for the next round.
            repeat = 1 if self.preempted else self.decodes.steps_to_run()
            return Batch((), decodes, kv_read, repeat, padding, longest_kv=longest)
        return None
