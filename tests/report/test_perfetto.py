"""The trace is read back and held to the format that Perfetto reads."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.record import build

from triptych.record.run import Run
from triptych.report.perfetto import make_up, write_trace

Event = dict[str, Any]


def trace(run: Run, path: Path) -> list[Event]:
    write_trace(run, path / "trace.json")
    data = json.loads((path / "trace.json").read_text())
    events: list[Event] = data["traceEvents"]
    return events


def of(events: list[Event], *kinds: str) -> list[Event]:
    return [event for event in events if event["ph"] in kinds]


@pytest.fixture
def events(tmp_path: Path) -> list[Event]:
    return trace(build.split_run(), tmp_path)


def test_a_process_is_a_pool_and_a_thread_an_instance(events: list[Event]) -> None:
    names = {
        (event["name"], event["pid"], event.get("tid")): event["args"]["name"]
        for event in of(events, "M")
        if "name" in event["args"]
    }
    assert names == {
        ("process_name", 1, None): "prefill",
        ("process_name", 2, None): "decode",
        ("thread_name", 1, 1): "prefill 0",
        ("thread_name", 2, 2): "decode 1",
    }


def test_a_slice_is_a_batch_in_microseconds(events: list[Event]) -> None:
    slices = [(event["name"], event["pid"], event["ts"], event["dur"]) for event in of(events, "X")]
    assert slices == [
        ("prefill 1x100", 1, 1e6, 1e6),
        ("prefill 1x100", 1, 2e6, 1e6),
        ("decode 1", 2, 3e6, 1e6),
        ("decode 2 x 2", 2, 4e6, 2e6),
    ]
    assert of(events, "X")[3]["args"]["decode_kv"] == 203


@pytest.mark.parametrize(
    ("batch", "name"),
    [
        (
            {"prefilling": 2, "prefill_tokens": 1024, "decodes": 37, "iterations": 1},
            "prefill 2x512 + decode 37",
        ),
        ({"prefilling": 3, "prefill_tokens": 1300}, "prefill 1300 of 3"),
        ({"decodes": 40, "iterations": 118}, "decode 40 x 118"),
        ({"images": 4, "decodes": 1, "iterations": 1}, "encode 4 + decode 1"),
        ({}, "empty"),
    ],
)
def test_a_batch_is_named_by_its_make_up(batch: dict[str, Any], name: str) -> None:
    assert make_up(batch) == name


def test_a_transfer_flows_from_the_batch_that_made_it_to_the_first_that_uses_it(
    events: list[Event],
) -> None:
    slices = of(events, "X")

    def slice_at(event: Event) -> int:
        (index,) = [
            i
            for i, each in enumerate(slices)
            if (each["pid"], each["tid"]) == (event["pid"], event["tid"])
            and each["ts"] <= event["ts"] < each["ts"] + each["dur"]
        ]
        return index

    flows: dict[int, dict[str, Event]] = defaultdict(dict)
    for event in of(events, "s", "f"):
        flows[event["id"]][event["ph"]] = event
    assert all(flow.keys() == {"s", "f"} and flow["f"]["bp"] == "e" for flow in flows.values())
    assert [(slice_at(flow["s"]), slice_at(flow["f"])) for flow in flows.values()] == [(0, 2), (1, 3)]


def test_a_transfer_is_a_span_of_its_own(events: list[Event]) -> None:
    spans = [(event["ph"], event["id"], event["ts"], event["name"]) for event in of(events, "b", "e")]
    assert spans == [
        ("b", 1, 2e6, "kv of request 0"),
        ("e", 1, 3e6, "kv of request 0"),
        ("b", 2, 3e6, "kv of request 1"),
        ("e", 2, 4e6, "kv of request 1"),
    ]


def test_counters_show_kv_blocks_and_the_queue(events: list[Event]) -> None:
    counters: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for event in of(events, "C"):
        (value,) = event["args"].values()
        counters[event["name"]].append((event["ts"], value))
    assert counters["prefill 0 waiting requests"] == [(1e6, 1), (2e6, 0)]
    assert counters["decode 1 KV blocks"] == [(3e6, 50), (4e6, 80)]


def test_no_flow_is_left_half(tmp_path: Path) -> None:
    run = build.split_run()
    unused = build.transfers((0, "kv", 0, 1, 9.0, 10.0, 1.0), (1, "kv", 1, 0, 0.0, 0.5, 1.0))
    assert of(trace(replace(run, transfers=unused), tmp_path), "s", "f") == []


def test_slices_of_a_track_do_not_overlap(tmp_path: Path) -> None:
    """Starts are sums and so are ends: they meet to rounding only."""
    rng = np.random.default_rng(0)
    now, rows = 0.0, []
    for _ in range(3000):
        first, growth, count = rng.random() / 50, rng.random() / 1e4, int(rng.integers(1, 50))
        rows.append({"start": now, "first": first, "growth": growth, "iterations": count, "decodes": 3})
        for step in range(count):
            now += first + step * growth
    lanes = [build.lane(*rows), build.lane(*rows, number=1)]
    run = build.run([], lanes, instances=[replace(build.INSTANCE, lanes=2)])
    tracks: dict[tuple[int, int], list[Event]] = defaultdict(list)
    for event in of(trace(run, tmp_path), "X"):
        tracks[event["pid"], event["tid"]].append(event)
    assert len(tracks) == 2
    for track in tracks.values():
        assert len(track) == 3000
        begins = np.array([event["ts"] for event in track])
        ends = begins + [event["dur"] for event in track]
        assert (ends >= begins).all()
        assert (ends[:-1] <= begins[1:]).all()
        np.testing.assert_allclose(begins, [row["start"] * 1e6 for row in rows], rtol=0, atol=0.07)
