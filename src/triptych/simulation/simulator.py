"""The event loop: requests arrive, are routed through their phases and between instances, and end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from math import inf, isnan, nan
from sys import maxsize
from typing import Any

from triptych.policy import EmbeddingCache, Phase, Request, Router, Status
from triptych.policy.request import DECODE, ENCODE, PREFILL, TRANSFERRING
from triptych.record.recorder import Recorder
from triptych.simulation.lane import Lane
from triptych.simulation.network import Network
from triptych.simulation.runner import Event
from triptych.simulation.traffic import Traffic

Progress = Callable[[int, int, float], bool]
"""Called now and then with (requests that have ended, requests in all, virtual seconds); False stops."""

_EVENTS_PER_PROGRESS = 4096


@dataclass(slots=True)
class Instance:
    """A place where phases run: its lanes, and what it takes to send something from it or to it."""

    number: int
    pool: str
    lanes: list[Lane]

    def lane(self) -> Lane:
        """The lane for a new request: the one with the fewest."""
        lanes = self.lanes
        return lanes[0] if len(lanes) == 1 else min(lanes, key=lambda lane: lane.requests)


@dataclass(slots=True)
class Way:
    """From the instances of one pool to those of another."""

    out: float
    """Bytes/s of a sender's port."""
    into: float
    """Bytes/s of a receiver's port."""
    latency: float
    """Seconds."""
    bytes_per_token: tuple[float, ...]
    """By the phase that the request moves on to, what is sent for each of its (image) tokens."""


class Simulator:
    """Runs traffic through instances under a virtual clock.

    Args:
        traffic: the requests.
        jump: whether repeated batches are run in one leap; the result is the same, to rounding.
        max_context: tokens that the model's positions reach: a longer request is rejected.
        delay: seconds from a client's sending a request until a scheduler sees it, and until the client has
            an answer that is out; the two are one here, since a constant shifts all alike.
        delay_per_image: more of it for every image.
    """

    def __init__(
        self,
        traffic: Traffic,
        *,
        jump: bool = True,
        max_context: int = maxsize,
        delay: float = 0.0,
        delay_per_image: float = 0.0,
    ) -> None:
        self.jump = jump
        self.traffic = traffic
        self.recorder = Recorder(len(traffic))
        self.network = Network(self.at)
        self.instances: list[Instance] = []
        self.serving: list[list[Instance]] = [[] for _ in Phase]
        """By phase, the instances that run it."""
        self._delay, self._delay_per_image = delay, delay_per_image
        self._coming: set[Request] = set()
        """Sent by their clients, and seen by no scheduler yet."""
        self._max_context = max_context
        """Tokens that a request may have: of the model, or of the smallest KV cache."""
        self._embeddings: list[EmbeddingCache] = []
        """One of each pool: all of a pool are alike."""
        self.routers: list[Router | None] = [None for _ in Phase]
        """Of each phase; None where a single instance runs it."""
        self.ways: dict[tuple[str, str], Way] = {}
        """By the names of two pools."""
        self.now = 0.0
        self.interrupted = False
        self.done = 0
        self.events: list[Event] = []
        self.order: Iterator[int] = count()
        self._arrivals: Iterator[float] = iter(())
        self._due = 0
        """Requests whose time has come."""
        self._next = 0
        """The request that arrives next: those that are due and beyond it are held back by their clients."""
        self._limit = maxsize if traffic.concurrency is None else traffic.concurrency
        """Most requests in flight."""
        self._place: dict[Request, Lane] = {}
        """Where each living request is, or is being sent."""
        self._routed: dict[Request, tuple[Router, int]] = {}
        self._sending: dict[Request, Lane] = {}
        """Lane that holds what is to be sent for a request."""
        self._doomed: dict[Request, Status] = {}
        """Given up while under way between two instances: they are dropped when they land."""
        self._counted: set[Request] = set()
        """Given up, and so counted among those that have ended, but not dropped yet."""

    def add_pool(self, pool: list[Instance], phases: Collection[Phase]) -> None:
        """Adds the instances of a pool, which run `phases`."""
        self.instances += pool
        for phase in phases:
            self.serving[phase] += pool
        scheduler = pool[0].lanes[0].scheduler
        if PREFILL in phases or DECODE in phases:
            self._max_context = min(self._max_context, scheduler.max_context)
        if scheduler.embeddings is not None:
            self._embeddings.append(scheduler.embeddings)

    def at(self, time: float, action: Any, argument: Any) -> None:
        """Calls `action(time, argument)` then; equal times in the order of the calls, before batches end."""
        heappush(self.events, (time, next(self.order), action, argument))

    def run(self, progress: Progress | None = None) -> None:
        """Runs until nothing is left to do, or `progress` says stop."""
        events = self.events
        self._arrivals = self.traffic.arrivals()
        self._foresee_arrival(next(self._arrivals, inf))
        until_progress = _EVENTS_PER_PROGRESS
        while events:
            now, _, action, argument = heappop(events)
            self.now = now
            action(now, argument)
            until_progress -= 1
            if until_progress == 0:
                until_progress = _EVENTS_PER_PROGRESS
                if progress is not None and not progress(self.done, len(self.traffic), now):
                    self.interrupted = True
                    break

    def close(self) -> None:
        """Notes the state of what has not ended, for a run that was cut short."""
        for request, lane in self._place.items():
            lane.journal.cut_short(request, nan)

    # A request's way ---------------------------------------------------------------------------------

    def _arrive(self, now: float) -> Lane | None:
        """The next request comes; returns the lane that it was added to, if it could be and is there."""
        index = self._next
        self._next = index + 1
        request = self.traffic.request(index)
        recorder = self.recorder
        recorder.arrived(request, now)
        if request.images:
            request.phase = ENCODE
        if not self._servable(request):
            request.status = Status.REJECTED
            recorder.close(request, now)
            self.done += 1
            return None
        patience = self.traffic.patience(index)
        if patience < inf:
            self.at(now + patience, self._give_up, request)
        delay = self._delay + self._delay_per_image * len(request.images)
        if delay > 0:
            self._coming.add(request)
            self.at(now + delay, self._enter, request)
            return None
        return self._add(request)

    def _add(self, request: Request) -> Lane:
        lane = self._route(request)
        lane.add(request)
        return lane

    def _enter(self, now: float, request: Request) -> None:
        """A request has passed the front end."""
        if request in self._coming:
            self._coming.remove(request)
            self._add(request).runner.poke(now)

    def _foresee_arrival(self, time: float) -> None:
        if time < inf:
            # Before all else that happens at that time: what comes at a boundary is seen there.
            event: Event = (time, -1, self._on_arrival, None)
            heappush(self.events, event)

    def _on_arrival(self, now: float, _: None) -> None:
        self._due += 1
        following = next(self._arrivals, inf)
        while following == now:
            self._due += 1
            following = next(self._arrivals, inf)
        self._foresee_arrival(following)
        self._admit(now)

    def _admit(self, now: float) -> None:
        """As many as are due and may be in flight come, and all are there before any is served."""
        lanes: dict[Lane, None] = {}
        while self._next < self._due and self._next - self.done < self._limit:
            lane = self._arrive(now)
            if lane is not None:
                lanes[lane] = None
        for lane in lanes:
            lane.runner.poke(now)

    def _servable(self, request: Request) -> bool:
        """Whether the request could be served wherever the routers may send it."""
        if request.longest_context > self._max_context:
            return False
        return not request.images or all(cache.fits(request) for cache in self._embeddings)

    def _route(self, request: Request) -> Lane:
        """Picks the instance for the request's phase, and the lane in it."""
        phase = request.phase
        serving = self.serving[phase]
        router = self.routers[phase]
        if router is None:
            lane = serving[0].lane()
        else:
            target = router.route(request)
            self._routed[request] = (router, target)
            lane = serving[target].lane()
        self._place[request] = lane
        return lane

    def _unroute(self, request: Request) -> None:
        """Tells the router that the request has left where it was sent."""
        routed = self._routed.pop(request, None)
        if routed is not None:
            routed[0].done(request, routed[1])

    def serve(self, lane: Lane, now: float) -> None:
        """Sends on what leaves a lane, and begins the transfers for which it has reserved memory."""
        scheduler = lane.scheduler
        leaving, scheduler.leaving = scheduler.leaving, []
        for request in leaving:
            self._unroute(request)
            held = request in scheduler.held
            target = self._route(request)
            if held:
                self._sending[request] = lane
            target.add(request, from_elsewhere=held)
            target.runner.poke(now)
        reserved, scheduler.reserved = scheduler.reserved, []
        for request in reserved:
            self._send(request, lane, now)

    def _send(self, request: Request, target: Lane, now: float) -> None:
        source = self._sending[request]
        pools = (self.instances[source.instance].pool, self.instances[target.instance].pool)
        way = self.ways[pools]
        decode = request.phase is DECODE
        tokens = request.context_tokens if decode else request.image_tokens
        size = tokens * way.bytes_per_token[request.phase]

        def landed(time: float) -> None:
            self.recorder.transfer(request, decode, source.instance, target.instance, now, time, size)
            self._land(request, source, target, time)

        self.network.send(
            now,
            source.instance,
            target.instance,
            size,
            out=way.out,
            into=way.into,
            latency=way.latency,
            done=landed,
        )

    def _land(self, request: Request, source: Lane, target: Lane, now: float) -> None:
        """What was sent has come: the source is freed, the target goes on."""
        del self._sending[request]
        source.scheduler.release(request)
        target.scheduler.land(request)
        if not self.recorder.has_ended(request):
            self._note_landing(request, target, now)
        doom = self._doomed.pop(request, None)
        if doom is not None:
            self.drop(request, doom, now)
        if source.scheduler.queued:
            source.runner.poke(now)
        target.runner.poke(now)

    def _note_landing(self, request: Request, target: Lane, now: float) -> None:
        recorder, index = self.recorder, request.id
        if request.phase is not DECODE:
            if isnan(recorder.prefill_ready[index]):
                recorder.prefill_ready[index] = now
        elif isnan(recorder.decode_ready[index]):  # a second time is after a preemption
            recorder.decode_ready[index] = now
            recorder.decode_instance[index] = target.instance

    def _give_up(self, now: float, request: Request) -> None:
        """The client's patience is at its end, and so is its request, whatever still works on it."""
        if request.status.ended:
            return
        status = Status.ABORTED if self.traffic.aborts(request.id) else Status.TIMED_OUT
        if request in self._coming:
            self._coming.remove(request)
            request.status = status
            self.recorder.close(request, now)
        else:
            self._place[request].gave_up(request, status, now)
            self._counted.add(request)
            self.drop(request, status, now)
        self._count(now)

    def drop(self, request: Request, status: Status, now: float) -> None:
        """Drops a request whose client waits no longer, as soon as what works on it allows."""
        if request.status.ended:
            return
        if request.status is TRANSFERRING:
            self._doomed[request] = status
            return
        lane = self._place[request]
        if not lane.runner.drop_later(request, status):
            lane.abort(request, status, now)
            self.ended(request, now)
        lane.runner.poke(now)

    def ended(self, request: Request, now: float) -> None:
        """A request is done with, in whatever way: nothing is held for it any more."""
        source = self._sending.pop(request, None)
        if source is not None:  # it was still waiting for memory where it was to be sent
            source.scheduler.release(request)
            if source.scheduler.queued:
                source.runner.poke(now)
        del self._place[request]
        self._unroute(request)
        if request in self._counted:
            self._counted.remove(request)
        else:
            self._count(now)

    def _count(self, now: float) -> None:
        """One more has ended, and makes room for one that is held back."""
        self.done += 1
        if self._next < self._due:
            self._admit(now)
