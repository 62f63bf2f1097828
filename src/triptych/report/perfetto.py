"""A run as a Chrome trace-event file, which opens in Perfetto (ui.perfetto.dev).

A process is a pool, a thread is a lane of one of its instances, a slice is a batch (equal decode iterations
in a row are one slice). A transfer is a flow from the batch that made the data to the first that could use
it, and a span of its own beside the pool's lanes. Counters show KV blocks in use and requests that wait.

Format: "Trace Event Format" (Google), JSON object form. Times are microseconds, in
steps of an eighth: exact in binary, so that a reader that truncates sees no overlap.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from triptych.record.columns import TRANSFER_KINDS
from triptych.record.logs import Ints, LaneLog
from triptych.record.run import Run

_ARGUMENTS = (
    *("iterations", "prefilling", "prefill_tokens", "prefill_kv", "decodes", "decode_kv", "padding"),
    *("images", "patches", "kv_blocks", "waiting", "flops", "bytes"),
)
_TICKS = 8
"""In a microsecond."""
_COUNTERS = (("kv_blocks", "KV blocks"), ("waiting", "waiting requests"))

Event = dict[str, Any]


def write_trace(run: Run, path: str | Path) -> None:
    """Writes the trace, event by event."""
    with Path(path).open("w", encoding="utf-8") as file:
        file.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
        separator = ""
        for event in _events(run):
            file.write(separator + json.dumps(event, separators=(",", ":")))
            separator = ",\n"
        file.write("\n]}\n")


class _Track:
    """Where a lane is drawn, and when its slices begin and end (ticks)."""

    def __init__(self, run: Run, lane: LaneLog, thread: int, pools: list[str]) -> None:
        info = run.instances[lane.instance]
        self.lane = lane
        self.pool = info.pool
        self.name = f"{info.pool} {info.id}" + (f" lane {lane.lane}" if info.lanes > 1 else "")
        self.place = {"pid": pools.index(info.pool) + 1, "tid": thread}
        self.begins = _ticks(lane["start"])
        self.ends = _ticks(lane.ends)
        # Two batches that follow on each other share an instant, up to rounding.
        self.ends[:-1] = np.minimum(self.ends[:-1], self.begins[1:])


def _events(run: Run) -> Iterator[Event]:
    pools = list(dict.fromkeys(info.pool for info in run.instances))
    tracks = [_Track(run, lane, number, pools) for number, lane in enumerate(run.lanes, start=1)]
    for number, pool in enumerate(pools, start=1):
        yield _metadata({"pid": number}, "process_name", name=pool)
        yield _metadata({"pid": number}, "process_sort_index", sort_index=number)
    for track in tracks:
        yield _metadata(track.place, "thread_name", name=track.name)
        yield _metadata(track.place, "thread_sort_index", sort_index=track.place["tid"])
    for track in tracks:
        yield from _slices(track)
    if run.transfers is not None:
        yield from _transfers(run, tracks)


def _metadata(place: dict[str, int], kind: str, **arguments: Any) -> Event:
    return {"ph": "M", **place, "name": kind, "args": arguments}


def _slices(track: _Track) -> Iterator[Event]:
    columns = {name: track.lane.columns[name].tolist() for name in _ARGUMENTS}
    begins, ends = track.begins.tolist(), track.ends.tolist()
    shown: dict[str, int] = {}
    for row, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        arguments = {name: values[row] for name, values in columns.items() if values[row]}
        yield {
            "ph": "X",
            **track.place,
            "ts": begin / _TICKS,
            "dur": (end - begin) / _TICKS,
            "name": make_up(arguments),
            "cat": "batch",
            "args": arguments,
        }
        for column, label in _COUNTERS:
            value = columns[column][row]
            if shown.get(column) != value:
                shown[column] = value
                yield {
                    "ph": "C",
                    "pid": track.place["pid"],
                    "ts": begin / _TICKS,
                    "name": f"{track.name} {label}",
                    "args": {label: value},
                }


def make_up(batch: dict[str, Any]) -> str:
    """What is in a batch: `prefill 2x512 + decode 37`, `decode 40 x 118` (40 requests, 118 iterations)."""
    parts = []
    if images := batch.get("images"):
        parts.append(f"encode {images}")
    if prefilling := batch.get("prefilling"):
        each, rest = divmod(batch["prefill_tokens"], prefilling)
        parts.append(
            f"prefill {batch['prefill_tokens']} of {prefilling}" if rest else f"prefill {prefilling}x{each}"
        )
    if decodes := batch.get("decodes"):
        parts.append(f"decode {decodes}")
    iterations = batch.get("iterations", 1)
    return (" + ".join(parts) or "empty") + (f" x {iterations}" if iterations > 1 else "")


def _transfers(run: Run, tracks: list[_Track]) -> Iterator[Event]:
    assert run.transfers is not None
    of_instance: dict[int, list[_Track]] = {}
    for track in tracks:
        of_instance.setdefault(track.lane.instance, []).append(track)
    names = ("request", "kind", "source", "target", "bytes")
    rows = zip(*(run.transfers.columns[name].tolist() for name in names), strict=True)
    starts = _ticks(run.transfers.columns["start"]).tolist()
    ends = _ticks(run.transfers.columns["end"]).tolist()
    for number, (request, kind, source, target, size) in enumerate(rows, start=1):
        name = f"{TRANSFER_KINDS[kind]} of request {request}"
        common = {"cat": "transfer", "id": number, "name": name}
        made = _last_ended(of_instance.get(source, []), starts[number - 1])
        used = _first_begun(of_instance.get(target, []), ends[number - 1])
        if made is not None:
            span = {**common, **made[0].place, "args": {"bytes": size, "to": run.instances[target].pool}}
            yield {**span, "ph": "b", "ts": starts[number - 1] / _TICKS}
            yield {**span, "ph": "e", "ts": ends[number - 1] / _TICKS}
        if made is not None and used is not None:
            yield {**common, **made[0].place, "ph": "s", "ts": made[1] / _TICKS}
            yield {**common, **used[0].place, "ph": "f", "bp": "e", "ts": used[1] / _TICKS}


def _last_ended(tracks: list[_Track], time: int) -> tuple[_Track, int] | None:
    """The lane whose batch was the last to end by `time`, and an instant within that batch."""
    found: list[tuple[int, _Track, int]] = []
    for track in tracks:
        row = int(np.searchsorted(track.ends, time, side="right")) - 1
        if row >= 0:
            begin, end = int(track.begins[row]), int(track.ends[row])
            found.append((end, track, max(end - 1, begin)))
    return max(found, key=lambda each: each[0])[1:] if found else None


def _first_begun(tracks: list[_Track], time: int) -> tuple[_Track, int] | None:
    """The lane with the first batch to begin from `time` on, and an instant within that batch."""
    found: list[tuple[int, _Track, int]] = []
    for track in tracks:
        row = int(np.searchsorted(track.begins, time))
        if row < len(track.begins):
            begin, end = int(track.begins[row]), int(track.ends[row])
            found.append((begin, track, min(begin + 1, end)))
    return min(found, key=lambda each: each[0])[1:] if found else None


def _ticks(times: np.ndarray[Any, Any]) -> Ints:
    return np.rint(times * 1e6 * _TICKS).astype(np.int64)
