"""A pass is cut at marks; the device may be another."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

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


HOST, DEVICE = torch._C._autograd.DeviceType.CPU, torch._C._autograd.DeviceType.CUDA


def traced(
    name: str, start: float, device: float = 0.0, *, number: int = 0, on: Any = HOST
) -> SimpleNamespace:
    """An event of torch's trace; of a kernel `device` is how long it ran, of an operator what it launched."""
    return SimpleNamespace(
        name=name,
        id=number,
        device_type=on,
        time_range=SimpleNamespace(start=start, end=start + device),
        self_device_time_total=device,
    )


def test_kernels_count_for_the_mark_after_which_they_were_launched() -> None:
    events = [
        traced("aten::mm", 30.0, 5.0),
        traced("triptych.mark", 20.0),
        traced("aten::mm", 25.0, 7.0),
        traced("gemm", 60.0, 7.0, number=8, on=DEVICE),
        traced("aten::copy_", 5.0, 100.0),
        traced("triptych.mark", 10.0),
        traced("aten::add", 12.0, 2.0),
        traced("triptych.mark", 40.0),
    ]
    assert kernels_between(events) == pytest.approx([2e-6, 12e-6, 0.0])


def test_the_kernels_of_a_graph_count_where_it_was_launched() -> None:
    """No operator knows of them: they have the number of the launch."""
    events = [
        traced("triptych.mark", 10.0),
        traced("cudaGraphLaunch", 12.0, number=7),
        traced("gemm", 50.0, 3.0, number=7, on=DEVICE),
        traced("flash", 54.0, 2.0, number=7, on=DEVICE),
        traced("triptych.mark", 14.0),
        traced("aten::argmax", 15.0, 1.0, number=7),  # operators are numbered by themselves
    ]
    assert kernels_between(events) == pytest.approx([5e-6, 1e-6])
