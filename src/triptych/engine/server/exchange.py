"""One generation request, from its body to the last byte of its answer."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from time import monotonic
from typing import Literal

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from triptych.engine.messages import Tokens
from triptych.engine.server.answers import DONE, Usage, encode, failure
from triptych.engine.server.body import ClientGone
from triptych.engine.server.client import Event, Output, Sequence
from triptych.engine.server.errors import ApiError, invalid
from triptych.engine.server.front import Front
from triptych.engine.server.jobs import Job
from triptych.engine.server.pool import LARGE
from triptych.engine.server.text import Answer, Piece

logger = logging.getLogger("triptych.server")

_LAST_WORDS = 5.0
"""Seconds to tell a client that its request has failed; it may have ceased to read."""
_STREAM = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
Outcome = Literal["finished", "refused", "failed", "aborted", "timed_out"]


class Outlet:
    """Writes an answer, whose headers go out with its first byte: until then it may still become an error.

    Args:
        send: of ASGI.
        headers: of every answer.
    """

    def __init__(self, send: Send, headers: dict[str, str]) -> None:
        self._send = send
        self._headers = headers
        self.status = 0
        """0: nothing has been written."""

    async def stream(self, data: bytes, *, last: bool = False) -> None:
        """Writes server-sent events."""
        if not self.status:
            await self._start(200, _STREAM)
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    async def whole(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        """Writes the one body of an answer."""
        length = {"content-type": "application/json", "content-length": str(len(data))}
        await self._start(status, length | headers)
        await self._send({"type": "http.response.body", "body": data})

    async def error(self, error: ApiError) -> None:
        """Writes an error: as the answer, or as an event where that has begun."""
        if self.status:
            await self.stream(failure(error), last=True)
        else:
            await self.whole(error.status, encode(error.body()), error.headers())

    async def _start(self, status: int, headers: dict[str, str]) -> None:
        self.status = status
        lines = [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in (self._headers | headers).items()
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": lines})


class Exchange(Response):
    """Answers a request when called.

    Args:
        front: the server.
        route: of the request, for the metrics.
        read: makes a job of an id and a body.
    """

    def __init__(
        self, front: Front, route: str, read: Callable[[Front, str, bytearray], Awaitable[Job]]
    ) -> None:
        super().__init__()
        self._front = front
        self._route = route
        self._read = read
        self._began = monotonic()
        self._queue: asyncio.Queue[tuple[Sequence | None, Output]] = asyncio.Queue()
        self._sequences: list[Sequence] = []
        self._first: dict[Sequence, float] = {}
        """When the first token of each answer came."""
        self._cached: dict[Sequence, int] = {}
        """Prompt tokens of each answer that the prefix cache held."""
        self._gone = False
        self._places = 0
        """Held in the queue."""
        self._size = 0
        """Bytes of the body."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        id, error = _request_id(headers)
        outlet = Outlet(send, {"x-request-id": id})
        outcome: Outcome = "finished"
        try:
            if error is not None:
                raise error
            async with asyncio.timeout(self._front.request_timeout):
                await self._answer(id, headers, receive, outlet)
        except ClientGone:
            outcome, error = "aborted", None
        except TimeoutError:
            outcome = "timed_out"
            message = (
                f"the request was not complete within {self._front.request_timeout:g} s and has been ended"
            )
            error = ApiError(504, message, code="request_timeout")
        except ApiError as refusal:
            outcome, error = (
                ("refused" if refusal.status < 500 or refusal.status == 503 else "failed"),
                refusal.with_traceback(None),  # whose frames would hold the body
            )
        except Exception:
            logger.exception("request %s failed", id)
            outcome, error = (
                "failed",
                ApiError(500, "the server failed; its log says why", code="internal_error"),
            )
        except BaseException:
            self._end("aborted")
            raise
        self._end("timed_out" if outcome == "timed_out" else "aborted")
        self._front.metrics.ended.labels(outcome).inc()
        if error is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(outlet.error(error), _LAST_WORDS)
        self._front.metrics.answers.labels(self._route, str(outlet.status or 499)).inc()
        if self._size > LARGE:
            self._front.pool.give_back()

    async def _answer(self, id: str, headers: Headers, receive: Receive, outlet: Outlet) -> None:
        """Reads the body, and only then takes a place: a client may never send all of it."""
        front = self._front
        front.check_open()
        body = await front.bodies.read(headers, receive)
        self._size = size = len(body)
        try:
            with front.admitted(id), self._watched(receive):
                self._enter(1)
                job = await self._read(front, id, body)
                del body
                await self._submit(id, job)
                answer = self._stream if job.stream else self._whole
                await answer(job, outlet)
        finally:
            front.bodies.release(size)

    @contextmanager
    def _watched(self, receive: Receive) -> Iterator[None]:
        """While it is noted whether the client closes the connection."""
        watch = asyncio.create_task(self._watch(receive))
        try:
            yield
        finally:
            watch.cancel()

    async def _watch(self, receive: Receive) -> None:
        """Waits until the client closes the connection."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._queue.put_nowait((None, Event.GONE))

    async def _submit(self, id: str, job: Job) -> None:
        self._enter(len(job.tasks) - 1)
        for index, (prompt, sampling) in enumerate(job.tasks):
            name = f"{id}/{index}/{uuid.uuid4().hex[:8]}"  # an id may come again before the worker forgets it
            sequence = Sequence(name, index, prompt, sampling, job.stream, self._queue)
            self._sequences.append(sequence)
            if self._gone:
                raise ClientGone
            await self._front.client.submit(sequence, job.images)
        job.images = []

    async def _stream(self, job: Job, outlet: Outlet) -> None:
        usage = Usage(job.prompt_tokens)
        answers = self._new_answers(job)
        begun: set[Answer] = set()
        while any(answer.finish is None for answer in answers):
            chunks = []
            for answer, piece in (await self._next(answers, usage)).items():
                counted = self._usage(answer) if job.continuous_usage else None
                if piece.text or piece.scores or answer.finish is not None or counted is not None:
                    if answer not in begun:
                        begun.add(answer)
                        chunks.append(job.shape.begin(answer, counted and replace(counted, completion=0)))
                    chunks.append(job.shape.chunk(answer, piece, counted))
            if chunks:
                await outlet.stream(b"".join(chunks))
        self._count(usage, answers)
        last = job.shape.usage(usage) if job.include_usage else b""
        await outlet.stream(last + DONE, last=True)

    async def _whole(self, job: Job, outlet: Outlet) -> None:
        usage = Usage(job.prompt_tokens)
        answers = self._new_answers(job)
        wholes = {answer: Piece() for answer in answers}
        while any(answer.finish is None for answer in answers):
            for answer, piece in (await self._next(answers, usage, wholes)).items():
                wholes[answer].text += piece.text
                wholes[answer].scores += piece.scores
        self._count(usage, answers)
        await outlet.whole(200, job.shape.whole(list(wholes.items()), usage), {})

    def _usage(self, answer: Answer) -> Usage:
        """What one answer has come to so far."""
        sequence = self._sequences[answer.index]
        return Usage(len(sequence.prompt.tokens), answer.tokens, self._cached.get(sequence, 0))

    def _new_answers(self, job: Job) -> list[Answer]:
        decode = self._front.prompts.vocabulary.decode
        return [Answer(decode, job.stops, sequence.index) for sequence in self._sequences]

    async def _next(
        self, answers: list[Answer], usage: Usage, wholes: dict[Answer, Piece] | None = None
    ) -> dict[Answer, Piece]:
        """What has come since the last call, at least one output; what came together is put together."""
        pieces: dict[Answer, Piece] = {}
        waiting = True
        while waiting or not self._queue.empty():
            sequence, output = await self._queue.get()
            waiting = False
            if sequence is None:
                raise ClientGone
            answer = answers[sequence.index]
            if isinstance(output, ApiError):
                raise output
            if isinstance(output, Event):
                answer.reset()
                pieces.pop(answer, None)
                if wholes is not None:
                    wholes[answer] = Piece()
            elif answer.finish is None:
                piece = pieces.setdefault(answer, Piece())
                self._take(sequence, answer, output, piece, usage)
        return pieces

    def _take(self, sequence: Sequence, answer: Answer, output: Tokens, piece: Piece, usage: Usage) -> None:
        now = monotonic()
        metrics = self._front.metrics
        if sequence not in self._first:
            self._first[sequence] = now
            self._leave(1)
            metrics.ttft.observe(now - self._began)
            self._cached[sequence] = output.cached_tokens
            usage.cached += output.cached_tokens if self._is_first_of_prompt(sequence) else 0
        new = answer.add(output.tokens, output.finish, output.logprobs)
        piece.text += new.text
        piece.scores += new.scores
        if answer.finish is None:
            return
        if answer.stopped:
            self._front.client.abort(sequence, "finished")
        metrics.e2e.observe(now - self._began)
        if answer.tokens > 1:
            metrics.tpot.observe((now - self._first[sequence]) / (answer.tokens - 1))

    def _is_first_of_prompt(self, sequence: Sequence) -> bool:
        """Prompt tokens are counted once, however many answers there are."""
        index = sequence.index
        return index == 0 or self._sequences[index - 1].prompt is not sequence.prompt

    def _count(self, usage: Usage, answers: list[Answer]) -> None:
        usage.completion = sum(answer.tokens for answer in answers)
        metrics = self._front.metrics
        metrics.prompt_tokens.inc(usage.prompt)
        metrics.cached_tokens.inc(usage.cached)
        metrics.generated_tokens.inc(usage.completion)

    def _enter(self, answers: int) -> None:
        self._front.queue.enter(answers)
        self._places += answers

    def _leave(self, answers: int) -> None:
        self._front.queue.leave(answers)
        self._places -= answers

    def _end(self, status: Literal["aborted", "timed_out"]) -> None:
        """Ends what is still under way for this request."""
        for sequence in self._sequences:
            self._front.client.abort(sequence, status)
        self._leave(self._places)


def _request_id(headers: Headers) -> tuple[str, ApiError | None]:
    """The id that the client gave, or a new one."""
    given = headers.get("x-request-id")
    if given is None:
        return uuid.uuid4().hex, None
    if not re.fullmatch(r"[!-~]{1,128}", given):
        return uuid.uuid4().hex, invalid("X-Request-Id must have 1 to 128 visible ASCII characters")
    return given, None
