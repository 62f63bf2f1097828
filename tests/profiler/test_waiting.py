"""How much of its time a process was ready and had no processor, as Linux counts it."""

from __future__ import annotations

from pathlib import Path

import pytest

from triptych.profiler import waiting
from triptych.profiler.waiting import busiest_child, held_up, ran, waits


@pytest.mark.parametrize(
    ("after", "share"),
    [
        ({"1": 5.0, "2": 3.0}, 0.0),
        ({"1": 5.5, "2": 3.0}, 0.5),
        ({"1": 5.5, "2": 3.4}, 0.6),  # 0.5, and of the half that is left another half of 0.4
        ({"1": 5.0, "2": 3.0, "3": 0.25}, 0.25),  # a thread that began in between
        ({"1": 99.0}, 0.95),
        ({}, 0.0),
    ],
)
def test_a_process_is_held_up_while_its_threads_are(after: dict[str, float], share: float) -> None:
    assert held_up({"1": 5.0, "2": 3.0}, after, 1.0) == pytest.approx(share)
    assert held_up({}, after, 0.0) == 0.0


def test_threads_that_wait_for_each_other_on_a_machine_of_their_own_are_not_held_up_by_others() -> None:
    before, after = {"1": 5.0, "2": 3.0}, {"1": 5.3, "2": 3.4}
    assert held_up(before, after, 1.0, others=0.0) == 0.0
    assert held_up(before, after, 1.0, others=0.1) == pytest.approx(0.1)
    assert held_up(before, after, 1.0, others=1.0) == held_up(before, after, 1.0) > 0.4


def test_threads_and_children_are_read_as_linux_shows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_PROCESSES", tmp_path)

    def process(number: int, ticks: int, children: str) -> None:
        thread = tmp_path / str(number) / "task" / str(number)
        thread.mkdir(parents=True)
        (thread / "schedstat").write_text("123 2500000000 7\n")
        (thread / "children").write_text(children)
        times = " ".join(["0"] * 10 + [str(ticks), "5"])
        (tmp_path / str(number) / "stat").write_text(f"{number} (a (b) c) S {times} 0\n")

    process(10, 900, "11 12 ")
    process(11, 20, "")
    process(12, 10, "13 ")
    process(13, 300, "")
    assert busiest_child(10) == 13
    assert busiest_child(13) is None
    assert waits(13) == {"13": 2.5}
    assert waits(99) == {}
    assert ran(13) == pytest.approx(123e-9)
    assert ran(99) == 0
