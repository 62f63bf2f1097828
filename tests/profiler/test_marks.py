"""A pass is cut at marks; the device may be another."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from triptych.profiler.marks import CPUClock, CUDAClock, Marks
from triptych.profiler.trace import kernels_between


@dataclass
class Stream:
    """A device whose time goes on as work is given to it."""

    now: float = 0.0
    events: int = 0
    synchronized: bool = field(default=False)

    def event(self) -> Event:
        self.events += 1
        return Event(self)

    def synchronize(self) -> None:
        self.synchronized = True


class Event:
    """As torch's."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.at = float("nan")

    def record(self) -> None:
        self.at = self.stream.now

    def elapsed_time(self, other: Event) -> float:
        assert self.stream.synchronized, "the device has not got there yet"
        return (other.at - self.at) * 1e3


def test_the_pieces_of_a_pass_add_up_to_it() -> None:
    marks = Marks(CPUClock())
    began = time.perf_counter()
    marks.begin()
    for name in ("norm", "qkv", "norm"):
        time.sleep(0.002)
        marks.mark(name)
    pieces = marks.end("head")
    whole = time.perf_counter() - began
    assert [piece.operator for piece in pieces] == ["norm", "qkv", "norm", "head"]
    assert 0.006 <= sum(piece.seconds for piece in pieces) <= whole
    assert all(piece.seconds >= 0.002 for piece in pieces[:3])


def test_marks_outside_a_pass_are_not_kept() -> None:
    marks = Marks(CPUClock())
    marks.mark("norm")
    marks.begin()
    assert [piece.operator for piece in marks.end("head")] == ["head"]


def test_cuda_events_give_the_device_time_and_are_used_again() -> None:
    stream = Stream()
    marks = Marks(CUDAClock(stream.event, stream.synchronize))
    for _ in range(3):
        marks.begin()
        stream.now += 0.25
        marks.mark("qkv")
        stream.now += 0.5
        pieces = marks.end("head")
        assert pieces == [("qkv", pytest.approx(0.25)), ("head", pytest.approx(0.5))]
    assert stream.events == 3


def test_kernels_count_for_the_mark_after_which_they_were_launched() -> None:
    def event(name: str, start: float, device: float = 0.0) -> SimpleNamespace:
        times = SimpleNamespace(start=start)
        return SimpleNamespace(name=name, time_range=times, self_device_time_total=device)

    events = [
        event("aten::mm", 30.0, 5.0),
        event("triptych.mark", 20.0),
        event("aten::mm", 25.0, 7.0),
        event("aten::copy_", 5.0, 100.0),
        event("triptych.mark", 10.0),
        event("aten::add", 12.0, 2.0),
        event("triptych.mark", 40.0),
    ]
    assert kernels_between(events) == pytest.approx([2e-6, 12e-6, 0.0])
