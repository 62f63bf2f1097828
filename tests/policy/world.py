"""A small world of instances whose iterations all take one tick, and which writes down what happens in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from triptych.policy import Batch, Phase, Request, Scheduler, Status


class Event(NamedTuple):
    """What happened at an instance in a tick."""

    tick: int
    instance: int
    kind: str
    what: tuple[int, ...]


@dataclass
class Run:
    """A batch that runs from one tick to another."""

    batch: Batch
    start: int
    end: int


@dataclass
class Plan:
    """What comes upon the world."""

    requests: Sequence[Request]
    arrivals: Sequence[int]
    """Tick at which each request comes."""
    aborts: dict[int, int] = field(default_factory=dict)
    """Request -> tick at which its client gives up."""


class World:
    """Runs a plan through schedulers.

    Args:
        schedulers: the instances; a request goes to one of those that run its phase, by its number.
        plan: what comes.
        delay: ticks that a transfer takes.
        jump: whether batches of decodes run as often as they may, until something comes in between.
    """

    def __init__(
        self, schedulers: Sequence[Scheduler], plan: Plan, *, delay: int = 1, jump: bool = False
    ) -> None:
        self.schedulers = schedulers
        self.plan = plan
        self.delay = delay
        self.jump = jump
        self.now = 0
        self.events: list[Event] = []
        self.ended: dict[Request, int] = {}
        """How often each request was said to have ended."""
        self.runs: list[Run | None] = [None] * len(schedulers)
        self._place: dict[Request, int] = {}
        self._sending: dict[Request, int] = {}
        """Who is to be sent, and the instance that holds what is sent."""
        self._moving: list[tuple[Request, int]] = []
        """Who left an instance while it formed a batch: added elsewhere in the next tick."""
        self._landing: list[tuple[int, Request]] = []
        self._doomed: set[Request] = set()

    @property
    def over(self) -> bool:
        """Whether all that was to come has come and gone."""
        return len(self.ended) == len(self.plan.requests)

    def tick(self) -> None:
        """One tick: runs end, requests move, land, come and give up; then batches are formed."""
        now = self.now
        for instance, run in enumerate(self.runs):
            if run is not None and run.end == now:
                self._finish_run(instance)
        moving, self._moving = self._moving, []
        for request, source in moving:
            self._send_on(request, source)
        for due, request in [each for each in self._landing if each[0] == now]:
            self._landing.remove((due, request))
            self._land(request)
        for request, arrival in zip(self.plan.requests, self.plan.arrivals, strict=True):
            if arrival == now:
                self._add(request, from_elsewhere=False)
            if self.plan.aborts.get(request.id) == now and request in self._place:
                self._abort(request)
        self.between_batches()
        for instance, run in enumerate(self.runs):
            if run is None:
                self._form(instance)
        under_way = any(self.runs) or self._moving or self._landing
        to_come = any(arrival > now for arrival in self.plan.arrivals)
        assert under_way or to_come or self.over, "nothing runs, nothing is to come, and not all is done"
        self.now = now + 1

    def between_batches(self) -> None:
        """For checks: called once a tick before batches are formed."""

    def formed(self, instance: int, batch: Batch) -> None:
        """For checks: called with each batch before it runs."""

    def preempted(self, request: Request) -> None:
        """For checks: called with each request that loses its KV."""

    def landed(self, instance: int, request: Request) -> None:
        """For checks: called with each request that has been sent to an instance."""

    def _form(self, instance: int) -> None:
        scheduler, now = self.schedulers[instance], self.now
        batch = scheduler.schedule()
        for request in scheduler.preempted:
            self._note("preempted", instance, request.id)
            self.preempted(request)
        self._moving += [(request, instance) for request in scheduler.leaving]
        self._landing += [(now + self.delay, request) for request in scheduler.reserved]
        for request in scheduler.reserved:
            self._note("reserved", instance, request.id)
        scheduler.leaving, scheduler.reserved = [], []
        if batch is None:
            return
        self.formed(instance, batch)
        for request, image in batch.images:
            self._note("image", instance, request.id, image.content)
        self.runs[instance] = Run(batch, now, now + (batch.repeat if self.jump else 1))

    def _finish_run(self, instance: int) -> None:
        """Ends what runs at an instance now, planned or not, so that it sees what changes."""
        run, scheduler = self.runs[instance], self.schedulers[instance]
        if run is None or run.start == self.now:
            return
        self.runs[instance] = None
        batch, iterations = run.batch, self.now - run.start
        for step in range(iterations):
            kv_read = batch.decode_kv + step * batch.decodes
            what = (batch.decodes, kv_read, batch.padding)
            self.events.append(Event(run.start + step, instance, "decodes", what))
            for request, tokens, history, last in batch.chunks:
                piece = (request.id, tokens, history + step * tokens, last)
                self.events.append(Event(run.start + step, instance, "chunk", piece))
        _, finished = scheduler.complete(batch, iterations)
        for request in finished:
            self._note("finished", instance, request.id, request.generated_tokens)
            self._end(request)
        leaving, scheduler.leaving = scheduler.leaving, []
        for request in leaving:
            self._send_on(request, instance)

    def _send_on(self, request: Request, source: int) -> None:
        held = request in self.schedulers[source].held
        if held:
            self._sending[request] = source
        self._add(request, from_elsewhere=held)

    def _add(self, request: Request, *, from_elsewhere: bool) -> None:
        wanted = {Phase.ENCODE: "encodes_here", Phase.PREFILL: "prefills_here", Phase.DECODE: "decodes_here"}
        attribute = wanted[request.phase]
        serving = [n for n, scheduler in enumerate(self.schedulers) if getattr(scheduler, attribute)]
        target = serving[request.id % len(serving)]
        self._place[request] = target
        self._finish_run(target)
        self.schedulers[target].add(request, from_elsewhere=from_elsewhere)

    def _land(self, request: Request) -> None:
        source, target = self._sending.pop(request), self._place[request]
        self._finish_run(source)
        self._finish_run(target)
        self.schedulers[source].release(request)
        self.schedulers[target].land(request)
        self.landed(target, request)
        if request in self._doomed:
            self._abort(request)

    def _abort(self, request: Request) -> None:
        if request.status is Status.TRANSFERRING:
            self._doomed.add(request)
            return
        place = self._place[request]
        self._finish_run(place)
        if request not in self._place:
            return  # its last token came with the iteration that ended now
        self.schedulers[self._place[request]].abort(request)
        self._note("aborted", place, request.id, request.generated_tokens)
        source = self._sending.pop(request, None)
        if source is not None:
            self._finish_run(source)
            self.schedulers[source].release(request)
        self._end(request)

    def _end(self, request: Request) -> None:
        self.ended[request] = self.ended.get(request, 0) + 1
        del self._place[request]

    def _note(self, kind: str, instance: int, *what: int) -> None:
        self.events.append(Event(self.now, instance, kind, what))
