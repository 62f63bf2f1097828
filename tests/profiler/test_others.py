"""What other programs take of the cores that this one may use."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from triptych.profiler import others
from triptych.profiler.others import Lately, Others


class Machine:
    """Two cores, their clock, and what has been used of both."""

    def __init__(self, stat: Path) -> None:
        self._stat = stat
        self.now = self.own = 0.0
        self.spend(0.0)

    def spend(self, seconds: float, own: float = 0.0, first: float = 0.0, second: float = 0.0) -> None:
        """Time goes by in which this program, and others on each of the cores, run so long."""
        self.now, self.own = self.now + seconds, self.own + own
        used = getattr(self, "used", (0.0, 0.0))
        self.used = (used[0] + own + first, used[1] + second)
        lines = [f"cpu{n} {round(100 * each)} 0 0 900 9 0 0 0 0 0" for n, each in enumerate(self.used)]
        self._stat.write_text("\n".join(["cpu 1 2 3 4 5 6 7 8 9 9", *lines, "intr 5"]))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path / "stat")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(others, "_STAT", tmp_path / "stat")
    monkeypatch.setattr(others.time, "monotonic", lambda: made.now)
    monkeypatch.setattr(others, "_own_seconds", lambda: made.own)
    monkeypatch.setattr(others.os, "sysconf", lambda name: 100)
    usable(monkeypatch, {0, 1})
    return made


def usable(monkeypatch: pytest.MonkeyPatch, numbers: set[int]) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: numbers, raising=False)
    monkeypatch.setattr(others, "cores", lambda: len(numbers))


def test_what_runs_on_cores_that_this_program_may_not_use_does_not_count(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = Others()
    usable(monkeypatch, {0})
    one = Others()
    machine.spend(2.0, own=1.0, first=0.5, second=2.0)
    assert one.cores() == pytest.approx(0.25)
    usable(monkeypatch, {0, 1})
    assert both.cores() == pytest.approx(1.25)


def test_nothing_is_known_where_only_a_part_of_the_cores_is_granted(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Others()
    machine.spend(1.0, second=1.0)
    monkeypatch.setattr(others, "cores", lambda: 1)
    assert watched.cores() is None


def test_lately_is_the_last_second_or_two(machine: Machine) -> None:
    lately = Lately()
    assert lately.cores() is None
    machine.spend(1.0, second=1.0)
    assert lately.cores() == pytest.approx(1.0)
    machine.spend(1.0, own=1.0)
    assert lately.cores() == pytest.approx(0.5)
    machine.spend(1.0)
    assert lately.cores() == pytest.approx(0.0)
