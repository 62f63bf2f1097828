"""How long kernels ran on the device, by torch's trace (CUPTI), beside the time by events."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from triptych.profiler.marks import Marks
from triptych.profiler.statistics import Piece

_MARK = "triptych.mark"
_LAUNCH = "GraphLaunch"
"""In the names of the runtime's and the driver's launches of a graph."""
_HOST = torch._C._autograd.DeviceType.CPU


class TraceClock:
    """Stamps are marks in the trace; the time between two is that of the kernels launched in between."""

    def __init__(self, events: Callable[[], Iterable[Any]]) -> None:
        self._events = events

    def stamp(self) -> None:
        """Puts a mark into the trace."""
        with torch.profiler.record_function(_MARK):
            pass

    def between(self, stamps: list[None]) -> list[float]:
        """Seconds of kernels launched from each mark to the next."""
        return kernels_between(self._events())[: len(stamps) - 1]


def kernels_between(events: Iterable[Any]) -> list[float]:
    """Seconds of kernels that were launched from each mark to the next.

    An operator knows the kernels that it launched. The launch of a graph is no operator and knows none: its
    kernels stand in the device's part of the trace under the number of the launch.

    Args:
        events: of `torch.profiler`, of host and device, with `name`, `id`, `device_type`, `time_range` and
            `self_device_time_total` in microseconds.
    """
    events = list(events)
    host = [event for event in events if event.device_type == _HOST]
    graphs = {event.id: 0.0 for event in host if _LAUNCH in event.name}
    for event in events:
        if event.device_type != _HOST and event.id in graphs:
            graphs[event.id] += event.time_range.end - event.time_range.start
    seconds: list[float] = []
    for event in sorted(host, key=lambda event: event.time_range.start):
        if event.name == _MARK:
            seconds.append(0.0)
        elif seconds:
            launched = graphs[event.id] if _LAUNCH in event.name else 0.0
            seconds[-1] += (event.self_device_time_total or launched) * 1e-6
    return seconds


def traced(marks: Marks, run: Callable[[], list[Piece]]) -> list[Piece]:
    """One pass under the trace, with the kernels' time of each piece."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    profiler = torch.profiler.profile(activities=activities)
    before = marks.clock

    def events() -> Iterable[Any]:
        torch.cuda.synchronize()
        profiler.stop()
        return profiler.events() or ()

    marks.clock = TraceClock(events)
    profiler.start()
    try:
        return run()
    finally:
        marks.clock = before
