"""How long kernels ran on the device, by torch's trace (CUPTI), beside the time by events."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from triptych.profiler.marks import Marks
from triptych.profiler.statistics import Piece

_MARK = "triptych.mark"


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

    Args:
        events: of `torch.profiler`, with `name`, `time_range.start` and `self_device_time_total` in
            microseconds.
    """
    seconds: list[float] = []
    for event in sorted(events, key=lambda event: event.time_range.start):
        if event.name == _MARK:
            seconds.append(0.0)
        elif seconds:
            seconds[-1] += event.self_device_time_total * 1e-6
    return seconds


def traced(marks: Marks, run: Callable[[], list[Piece]]) -> list[Piece]:
    """One pass under the trace, with the kernels' time of each piece."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    profiler = torch.profiler.profile(activities=activities)
    before = marks.clock

    def events() -> Iterable[Any]:
        torch.cuda.synchronize()
        profiler.stop()
        # A kernel stands in the trace twice: by its launch, which is what counts, and by itself.
        host = torch._C._autograd.DeviceType.CPU
        return [event for event in profiler.events() or () if event.device_type == host]

    marks.clock = TraceClock(events)
    profiler.start()
    try:
        return run()
    finally:
        marks.clock = before
