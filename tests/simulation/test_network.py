"""Transfers that share ports: worked by hand, and no port ever carries more than it can."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count, pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.simulation.network import Network


class Clock:
    """An event loop and nothing else."""

    def __init__(self) -> None:
        self._events: list[tuple[float, int, Callable[[float, Any], None], Any]] = []
        self._order = count()

    def at(self, time: float, action: Callable[[float, Any], None], argument: Any) -> None:
        heappush(self._events, (time, next(self._order), action, argument))

    def run(self) -> None:
        while self._events:
            now, _, action, argument = heappop(self._events)
            action(now, argument)


class Sent(NamedTuple):
    """A transfer to be made; ports carry 100 bytes/s if not said otherwise."""

    start: float
    source: int
    target: int
    size: float
    out: float = 100.0
    into: float = 100.0
    latency: float = 0.0


def arrivals(*transfers: Sent) -> list[float]:
    """When each has come."""
    clock = Clock()
    network = Network(clock.at)
    ends: list[list[float]] = [[] for _ in transfers]

    def start(now: float, index: int) -> None:
        sent = transfers[index]
        network.send(
            now,
            sent.source,
            sent.target,
            sent.size,
            out=sent.out,
            into=sent.into,
            latency=sent.latency,
            done=ends[index].append,
        )

    for index, sent in enumerate(transfers):
        clock.at(sent.start, start, index)
    clock.run()
    assert all(len(times) == 1 for times in ends), "each arrives, and once"
    return [times[0] for times in ends]


def test_alone_it_has_the_port_to_itself() -> None:
    assert arrivals(Sent(1.0, 0, 1, 500.0)) == [6.0]


def test_nothing_to_send_takes_no_time() -> None:
    assert arrivals(Sent(1.0, 0, 1, 0.0), Sent(1.0, 0, 1, 0.0, latency=0.5)) == [1.0, 1.5]


def test_two_through_one_port_take_twice_as_long() -> None:
    assert arrivals(Sent(0.0, 0, 1, 100.0), Sent(0.0, 0, 2, 100.0)) == [2.0, 2.0]


def test_directions_and_other_instances_do_not_disturb() -> None:
    """A port sends and receives at once, and who shares no port is not slowed."""
    assert arrivals(Sent(0.0, 0, 1, 100.0), Sent(0.0, 1, 0, 100.0), Sent(0.0, 2, 3, 100.0)) == [1.0, 1.0, 1.0]


def test_incast_is_shared_at_the_receiver() -> None:
    assert arrivals(*(Sent(0.0, source, 9, 100.0) for source in range(4))) == [4.0] * 4


def test_who_comes_later_slows_who_is_there() -> None:
    """Alone for 1 s (100 of 200 bytes), then both at 50 bytes/s: the first is through at 3.

    The other has 100 of its 300 bytes by then, and the port to itself for the 200 left.
    """
    assert arrivals(Sent(0.0, 0, 1, 200.0), Sent(1.0, 0, 1, 300.0)) == [3.0, 5.0]


def test_a_short_one_passes_a_long_one() -> None:
    """From 0 to 2 at 50 bytes/s each; then 900 bytes are left, with the port to themselves."""
    assert arrivals(Sent(0.0, 0, 1, 1000.0), Sent(0.0, 0, 1, 100.0)) == [11.0, 2.0]


def test_the_slower_of_two_ports_counts() -> None:
    assert arrivals(Sent(0.0, 0, 1, 100.0, out=100.0, into=25.0)) == [4.0]
    assert arrivals(Sent(0.0, 0, 1, 100.0, out=20.0, into=100.0)) == [5.0]


def test_a_fast_receiver_takes_two_slow_senders_at_full_speed() -> None:
    slow = {"out": 50.0, "into": 100.0}
    assert arrivals(Sent(0.0, 0, 9, 100.0, **slow), Sent(0.0, 1, 9, 100.0, **slow)) == [2.0, 2.0]


def test_a_share_that_another_cannot_use_is_not_dealt_out_again() -> None:
    """Shares are equal, not max-min fair: the first is held to 10 bytes/s by its receiver.

    The second still gets half of the sender's port, not the 90 bytes/s that are left.
    """
    assert arrivals(Sent(0.0, 0, 1, 100.0, into=10.0), Sent(0.0, 0, 2, 100.0)) == [10.0, 2.0]


def test_one_end_frees_the_other_port() -> None:
    """0->1 shares its sender with 0->2 and its receiver with 3->1, so all three go at 50 until 2.

    Then 0->2 and 3->1 are through, and 0->1 has both ports to itself.
    """
    assert arrivals(Sent(0.0, 0, 1, 200.0), Sent(0.0, 0, 2, 100.0), Sent(0.0, 3, 1, 100.0)) == [3.0, 2.0, 2.0]


def test_latency_delays_the_first_byte_and_takes_no_bandwidth() -> None:
    """The second begins to share at 1.5, when the first has 50 bytes left."""
    first, second = arrivals(Sent(0.0, 0, 1, 200.0), Sent(1.0, 0, 1, 100.0, latency=0.5))
    assert (first, second) == (2.5, 3.0)


def test_equal_starts_and_ends_are_told_once_each() -> None:
    assert arrivals(*(Sent(0.0, 0, 1, 30.0) for _ in range(10))) == pytest.approx([3.0] * 10)


traffic = st.lists(
    st.builds(
        Sent,
        start=st.floats(0, 10),
        source=st.integers(0, 3),
        target=st.integers(0, 3),
        size=st.floats(0, 1000),
        latency=st.sampled_from([0.0, 0.1]),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(traffic, st.lists(st.floats(1, 200), min_size=8, max_size=8))
def test_no_port_carries_more_than_it_can(sends: list[Sent], ports: list[float]) -> None:
    """Between any start and any end, the transfers wholly in between are no more than bandwidth x time."""
    sends = [sent._replace(out=ports[sent.source], into=ports[4 + sent.target]) for sent in sends]
    ends = arrivals(*sends)
    for port in range(8):
        through = [
            (sent.start + sent.latency, end, sent.size)
            for sent, end in zip(sends, ends, strict=True)
            if port == sent.source or port == 4 + sent.target
        ]
        for begin, *_ in through:
            for _, stop, _ in through:
                inside = sum(size for low, high, size in through if begin <= low and high <= stop)
                assert inside <= ports[port] * max(0.0, stop - begin) * (1 + 1e-9) + 1e-6
    for sent, end in zip(sends, ends, strict=True):
        begin, alone = sent.start + sent.latency, sent.size / min(sent.out, sent.into)
        assert end >= begin + alone - 1e-6
        assert end <= begin + alone * len(sends) + 1e-6, "it has an equal share of each port at all times"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 10), st.floats(1, 1000)), min_size=1, max_size=20))
def test_a_port_with_work_is_never_idle(sends: list[tuple[float, float]]) -> None:
    """One port: the last byte comes when a queue with that much work would be empty."""
    ends = arrivals(*(Sent(start, 0, 1, size) for start, size in sends))
    free = 0.0
    for start, size in sorted(sends):
        free = max(free, start) + size / 100.0
    assert max(ends) == pytest.approx(free)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(1, 1000), min_size=2, max_size=20))
def test_of_equal_starts_the_shorter_arrives_first(sizes: list[float]) -> None:
    ends = arrivals(*(Sent(0.0, 0, 1, size) for size in sorted(sizes)))
    assert all(one <= other * (1 + 1e-9) for one, other in pairwise(ends))
