"""The front end's side of the engine: what is under way, whichever worker process is at work on it.

A request is recomputed if its worker dies. If the client has seen tokens of it already, these are appended to
the prompt, and the next worker goes on from there; that is the same answer where the choice of a token
depends on nothing but the tokens before it. Where more matters (draws from a seed, penalties on what was
generated), the request fails.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from time import monotonic, monotonic_ns
from typing import Literal

import msgspec

from triptych.engine.messages import (
    Abort,
    Failed,
    ImageInput,
    Load,
    Ready,
    Round,
    Sampling,
    Submit,
    Tokens,
    encode,
)
from triptych.engine.server.errors import ApiError, unavailable
from triptych.engine.server.link import Link
from triptych.engine.server.pool import Pool

logger = logging.getLogger("triptych.server")

_STALLED = 5
"""Times an iteration after which a worker seems to hang."""
_ITERATION = 1.0
"""Seconds that any iteration may take: others use the processor too."""
MAX_LOSSES = 3
"""Workers that may die over a request; it may be what kills them."""


class Event(Enum):
    """What may come in place of tokens."""

    RESTART = "restart"
    """All tokens so far are void: the answer begins again."""
    GONE = "gone"
    """The client has closed the connection."""


Output = Tokens | ApiError | Event


@dataclass
class Prompt:
    """What goes into the model, and what it takes to make that again."""

    tokens: list[int]
    files: list[bytes] = field(default_factory=list)
    """Images, as they were sent: a tenth and less of what they are as pixels."""


@dataclass(eq=False)
class Sequence:
    """One answer to one prompt."""

    id: str
    index: int
    """Its place among the answers of its request."""
    prompt: Prompt
    sampling: Sampling
    streaming: bool
    """Whether the client sees tokens as they come."""
    queue: asyncio.Queue[tuple[Sequence | None, Output]]
    sent: int = field(default_factory=monotonic_ns)
    tokens: list[int] = field(default_factory=list)
    """Generated so far, by all workers."""
    submitted: bool = False
    """Whether the present worker knows it."""
    losses: int = 0
    """Workers that died over it."""

    @property
    def can_continue(self) -> bool:
        """Whether a new worker that is given prompt and tokens so far goes on as the old one would have."""
        sampling = self.sampling
        if sampling.presence_penalty or sampling.frequency_penalty:
            return False
        return sampling.seed is None or sampling.temperature == 0

    def put(self, output: Output) -> None:
        """Hands on what came."""
        self.queue.put_nowait((self, output))


class Client:
    """Sends requests to the worker, and hands on what comes back.

    Args:
        pool: threads for large messages.
        read_images: pixels of the images of a prompt.
        on_load: told how busy the worker is after each iteration.
    """

    def __init__(
        self,
        pool: Pool,
        read_images: Callable[[list[bytes]], Awaitable[list[ImageInput]]],
        on_load: Callable[[Load], None],
    ) -> None:
        self._pool = pool
        self._read_images = read_images
        self._on_load = on_load
        self._link: Link | None = None
        self._sequences: dict[str, Sequence] = {}
        self._resubmission: asyncio.Task[None] | None = None
        self.ready: Ready | None = None
        """What the last worker said of itself; None: there was none yet."""
        self._longest = 0.0
        """Seconds between two signs of life of a worker that had work."""
        self.moved = monotonic()
        """When the worker last gave a sign of life, or was given something to do after it had nothing."""

    @property
    def connected(self) -> bool:
        """Whether a worker is there."""
        return self._link is not None

    @property
    def under_way(self) -> int:
        """Answers that are not complete."""
        return len(self._sequences)

    @property
    def stalled(self) -> bool:
        """Whether the worker has said nothing for longer than an iteration may take.

        That is a few times what the largest batch is predicted to take, or the longest iteration has taken.
        """
        ready = self.ready
        if ready is None or not self.worker_owes:
            return False
        longest = max(_ITERATION, ready.iteration_seconds, self._longest)
        return monotonic() - self.moved > _STALLED * longest

    @property
    def worker_owes(self) -> bool:
        """Whether the worker has been given work and has not completed it."""
        return self._link is not None and any(sequence.submitted for sequence in self._sequences.values())

    # What requests do ---------------------------------------------------------------------------------

    async def submit(self, sequence: Sequence, images: list[ImageInput]) -> None:
        """Begins an answer; what comes of it is put into its queue."""
        self._sequences[sequence.id] = sequence
        await self._send(sequence, images)

    def abort(self, sequence: Sequence, status: Literal["aborted", "timed_out", "finished"]) -> bool:
        """Ends an answer, if it is not complete.

        Returns:
            Whether it was under way.
        """
        if self._sequences.pop(sequence.id, None) is None:
            return False
        if self._link is not None and sequence.submitted:
            self._link.send(encode(Abort(sequence.id, status, sent=monotonic_ns())))
        return True

    # What the supervisor does -------------------------------------------------------------------------

    def worker_up(self, link: Link, ready: Ready) -> None:
        """A worker is ready; it gets all that is under way, oldest first."""
        self._link, self.ready = link, ready
        self.moved = monotonic()
        if self._sequences:
            self._resubmission = asyncio.create_task(self._send_all(list(self._sequences.values())))

    def worker_down(self) -> None:
        """The worker is gone. What can be recomputed waits for the next, the rest fails."""
        self._link = None
        if self._resubmission is not None:
            self._resubmission.cancel()
        for sequence in list(self._sequences.values()):
            if not sequence.submitted:
                continue
            sequence.submitted = False
            sequence.losses += 1
            if sequence.losses >= MAX_LOSSES:
                message = f"the worker died {sequence.losses} times over this request"
                self._fail(sequence, ApiError(500, message, code="worker_died"))
            elif not sequence.tokens or sequence.can_continue:
                continue
            elif sequence.streaming:
                message = (
                    "the worker died, and a streamed answer with a seed or penalties cannot be continued; "
                    "send the request again"
                )
                self._fail(sequence, ApiError(500, message, code="worker_died"))
            else:
                sequence.tokens.clear()
                sequence.put(Event.RESTART)

    def fail_all(self, reason: str) -> None:
        """No worker will come any more."""
        self._link = None
        for sequence in list(self._sequences.values()):
            self._fail(sequence, unavailable(reason, "server_stopping"))

    def receive(self, message: Round) -> None:
        """Hands on what an iteration gave."""
        now = monotonic()
        if self.worker_owes:
            self._longest = max(self._longest, now - self.moved)
        self.moved = now
        self._on_load(message.load)
        for output in message.outputs:
            sequence = self._sequences.get(output.id)
            if sequence is None:
                continue  # aborted while the tokens were on their way
            if isinstance(output, Failed):
                status, code = (400, "invalid_request") if output.invalid else (500, "worker_failed")
                self._fail(sequence, ApiError(status, output.reason, code=code))
            elif output.finish in ("abort", "error"):
                self._fail(sequence, ApiError(500, f"the worker ended the request: {output.finish}"))
            else:
                sequence.tokens += output.tokens
                if output.finish is not None:
                    del self._sequences[sequence.id]
                sequence.put(output)

    def _fail(self, sequence: Sequence, error: ApiError) -> None:
        del self._sequences[sequence.id]
        sequence.put(error)

    async def _send_all(self, sequences: list[Sequence]) -> None:
        for sequence in sequences:
            try:
                await self._send(sequence, None)
            except Exception as error:
                logger.exception("a request could not be sent again")
                if self._sequences.get(sequence.id) is sequence:
                    self._fail(sequence, ApiError(500, f"the request could not be sent again: {error}"))

    async def _send(self, sequence: Sequence, images: list[ImageInput] | None) -> None:
        """Gives an answer to the worker; if there is none, the next one gets it."""
        link = self._link
        if link is None:
            return
        if images is None:
            images = await self._read_images(sequence.prompt.files)
        left = sequence.sampling.max_tokens - len(sequence.tokens)
        message = Submit(
            sequence.id,
            sequence.prompt.tokens + sequence.tokens,
            msgspec.structs.replace(sequence.sampling, max_tokens=left),
            images,
            sequence.sent,
        )
        data = await self._pool.run(encode, message) if images else encode(message)
        if self._link is not link or self._sequences.get(sequence.id) is not sequence:
            return  # the worker died or the client went meanwhile
        if not self.worker_owes:
            self.moved = monotonic()
        sequence.submitted = True
        link.send(data)
