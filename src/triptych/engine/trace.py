"""What the device did in the first batches that a worker ran: `triptych serve --profile-batches`.

Torch's profiler (CUPTI on CUDA) watches them, and three files join the run record: a trace that opens in
ui.perfetto.dev, and a table by NVTX range, as JSON and as Markdown. FLOP and bytes are the cost model's,
those that the batches cannot do without; divided by the time in which kernels ran they say how near the
device was to its limits. A batch takes longer while it is watched.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from triptych.engine.core import Engine
from triptych.engine.trace_files import TABLE, TEXT, TRACE
from triptych.plan import PoolPlan
from triptych.policy import Batch

_MARK = "triptych."
"""Before the names of ranges in the trace."""
_NONE = dict.fromkeys(("prefill_tokens", "prefill_pairs", "prefill_kv", "sampled", "decodes", "decode_kv"), 0)
_NO_IMAGES = {"patches": 0, "patch_pairs": 0}

Interval = tuple[float, float]


class _Pass(NamedTuple):
    range: str
    wall: float
    flop: float
    moved: float


@dataclass(frozen=True)
class Throughput:
    """What became of the passes in one range."""

    range: str
    """encode, prompt (a prompt's tokens, with decodes or without) or token (decodes alone)."""
    passes: int
    wall_seconds: float
    """From the begin of each pass until the device has done it."""
    kernel_seconds: float
    """In which the device, on the CPU an operator, was at work."""
    kernel_share: float
    """Of `wall_seconds`; the rest is the host's."""
    flop: float
    bytes: float
    """Weights and KV, read once in each pass."""
    flops: float
    """FLOP/s while kernels ran."""
    bandwidth: float
    """Bytes/s while kernels ran."""
    flops_share: float
    """Of the device's FLOP/s by its data sheet."""
    bandwidth_share: float
    """Of its memory bandwidth."""


class Tracer:
    """Watches the first batches of an engine.

    Args:
        engine: whose runner gets ranges that are seen in the trace.
        plan: of its pool; says what batches cost and what the device can do.
        batches: to watch.
    """

    def __init__(self, engine: Engine, plan: PoolPlan, batches: int) -> None:
        self._engine = engine
        self._plan = plan
        self._left = batches
        self._begun = False
        self._cuda = engine.runner.device.type == "cuda"
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * self._cuda
        self._profile = profile(activities=activities)
        self._passes: list[_Pass] = []
        self._inner = engine.runner.range

    def compute(self) -> None:
        """As `Engine.compute`, watched until there were enough batches."""
        if self._left == 0 or self._engine.batch is None:
            self._engine.compute()
            return
        if not self._begun:
            self._begun = True
            self._engine.runner.range = self._range
            self._profile.start()
        self._engine.compute()
        self._left -= 1
        if self._left == 0:
            self._stop()

    def write(self, folder: Path) -> None:
        """Writes the files, if any batch was run.

        Args:
            folder: of the run record, which is there.
        """
        if not self._passes:
            return
        if self._left:
            self._left = 0
            self._stop()
        found = self.throughput()
        self._profile.export_chrome_trace(str(folder / TRACE))
        about = {"device": self._plan.device.name, "ranges": [asdict(each) for each in found]}
        (folder / TABLE).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        (folder / TEXT).write_text(table(found), encoding="utf-8")

    def throughput(self) -> list[Throughput]:
        """What became of each range, those that came in the order of a request's way."""
        busy = self._busy()
        info = self._plan.describe(0)
        found = []
        for name in ("encode", "prompt", "token"):
            mine = [place for place, each in enumerate(self._passes) if each.range == name]
            if not mine:
                continue
            wall = sum(self._passes[place].wall for place in mine)
            flop = sum(self._passes[place].flop for place in mine)
            moved = sum(self._passes[place].moved for place in mine)
            seconds = sum(busy[place] for place in mine)
            flops, bandwidth = _over(flop, seconds), _over(moved, seconds)
            found.append(
                Throughput(
                    name,
                    len(mine),
                    wall,
                    seconds,
                    _over(seconds, wall),
                    flop,
                    moved,
                    flops,
                    bandwidth,
                    flops / info.peak_flops,
                    bandwidth / info.bandwidth,
                )
            )
        return found

    def _stop(self) -> None:
        self._profile.stop()
        self._engine.runner.range = self._inner

    @contextmanager
    def _range(self, name: str) -> Iterator[None]:
        """A range that ends when the device has done what was begun in it."""
        inner: AbstractContextManager[None] = self._inner(name)
        with inner, record_function(_MARK + name):
            begin = perf_counter()
            yield
            if self._cuda:
                torch.cuda.synchronize()
            wall = perf_counter() - begin
        batch = self._engine.batch
        assert batch is not None
        flop, moved = self._plan.cost.work(columns(batch, images=name == "encode"))
        self._passes.append(_Pass(name, wall, float(flop[0]), float(moved[0])))

    def _busy(self) -> list[float]:
        """Seconds of each pass in which the device was at work."""
        events = list(self._profile.events() or ())
        marked = [event for event in events if event.name.startswith(_MARK)]
        kinds = torch._C._autograd.DeviceType
        host = [event for event in marked if event.device_type == kinds.CPU]
        device = kinds.CUDA if self._cuda else kinds.CPU
        passes = sorted(_interval(event) for event in host)
        work = (
            _interval(event)
            for event in events
            if event.device_type == device and not event.name.startswith(_MARK) and not _is_annotation(event)
        )
        return [seconds * 1e-6 for seconds in overlap(passes, work)]


def columns(batch: Batch, *, images: bool) -> Mapping[str, Any]:
    """The images of a batch, or all else of it, as a row of the batch log.

    Returns:
        What `IterationCost.work` takes, arrays of shape (1,).
    """
    if images:
        patches = [image.patches for _, image in batch.images]
        row = {**_NONE, "patches": sum(patches), "patch_pairs": sum(count * count for count in patches)}
    else:
        row = {**{name: getattr(batch, name) for name in _NONE}, **_NO_IMAGES}
    return {name: np.array([float(value)]) for name, value in {**row, "iterations": 1}.items()}


def overlap(passes: Sequence[Interval], work: Iterable[Interval]) -> list[float]:
    """How much of each interval others cover, which may overlap each other."""
    merged: list[list[float]] = []
    for start, end in sorted(work):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    starts, ends = [start for start, _ in merged], [end for _, end in merged]
    covered = []
    for first, last in passes:
        inside = range(bisect_right(ends, first), bisect_left(starts, last))
        covered.append(sum(min(ends[at], last) - max(starts[at], first) for at in inside))
    return covered


def table(found: Sequence[Throughput]) -> str:
    """As Markdown."""
    lines = [
        "| range | passes | wall | kernels | share | TFLOP/s | of peak | GB/s | of peak |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in found:
        cells = [
            row.range,
            str(row.passes),
            f"{row.wall_seconds:.4f} s",
            f"{row.kernel_seconds:.4f} s",
            f"{row.kernel_share:.0%}",
            f"{row.flops / 1e12:.3f}",
            f"{row.flops_share:.1%}",
            f"{row.bandwidth / 1e9:.1f}",
            f"{row.bandwidth_share:.1%}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _interval(event: Any) -> Interval:
    return event.time_range.start, event.time_range.end


def _is_annotation(event: Any) -> bool:
    """Ranges stand in the device's part of a trace too, where they cover what is between kernels."""
    return bool(getattr(event, "is_user_annotation", False))


def _over(amount: float, seconds: float) -> float:
    return amount / seconds if seconds else 0.0
