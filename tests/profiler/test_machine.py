"""A profile of a CPU is of one kind, and of so many cores; and how far a measuring process is."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.engine.tiny import config_file

from triptych.profiler.progress import Advance
from triptych.profiler.text import measure_text
from triptych.profiles import machine


@pytest.mark.parametrize(
    ("clocks", "asked", "same"),
    [
        ({"processor": "P", "cores": "8", "threads": "8"}, "", True),
        ({"processor": "P", "cores": "8", "threads": "4"}, "", True),
        ({"processor": "P", "threads": "8"}, "", True),
        ({"processor": "P", "threads": "2"}, "", False),
        ({"processor": "P", "cores": "8", "threads": "2"}, "2", True),
        ({"processor": "P", "cores": "16", "threads": "8"}, "", False),
        ({"processor": "Q", "cores": "8", "threads": "8"}, "", False),
        ({}, "", False),
    ],
)
def test_it_is_this_machine_if_processor_cores_and_threads_are(
    clocks: dict[str, str], asked: str, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "processor", lambda: "P")
    monkeypatch.setattr(machine, "cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert machine.is_this(clocks, machine.libraries()) is same
    assert not machine.is_this(clocks, {**machine.libraries(), "torch": "1.0"})


def test_degrees_that_have_not_begun_count_as_the_one_that_has() -> None:
    advance = Advance(2)
    assert (advance.done, advance.total) == (0, 0)
    advance.take({"kind": "model", "name": "m", "tensor": 1, "left": 10})
    assert (advance.what, advance.total) == ("m, tensor 1", 20)
    for _ in range(10):
        advance.take({"kind": "turn"})
    advance.take({"kind": "again", "left": 2})
    assert (advance.done, advance.total) == (10, 22)
    advance.take({"kind": "turn"})
    advance.take({"kind": "turn"})
    advance.take({"kind": "quiet"})
    advance.take({"kind": "model", "name": "m", "tensor": 2, "left": 8})
    assert (advance.done, advance.total) == (12, 20)


def test_making_text_is_measured_by_answers(tmp_path: Path) -> None:
    rows = measure_text(str(config_file("llama", tmp_path)), 5)
    assert {row["operator"] for row in rows} == {"detokenising"}
    assert [row["units"] for row in rows] == [1, 16, 256]
    assert all(0 < row["seconds"] < 1 for row in rows)
    assert {row["model"] for row in rows} == {"llama"}
