"""How much of the machine was left to a server while it was measured."""

from __future__ import annotations

import pytest

from triptych.validation import left
from triptych.validation.left import Clocks, share_left


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(left, "cores", lambda: 2)


def share(*, others: float, worked: float, alone: float = 10.0, seconds: float = 20.0) -> float:
    """Share left to a server whose batches take `alone` s and `worked` core-s, beside `others` busy cores."""
    begin = Clocks(wall=100.0, busy=1000.0, worker=50.0)
    busy = 1000.0 + others * seconds + worked
    return share_left(begin, Clocks(wall=100.0 + seconds, busy=busy, worker=50.0 + worked), alone)


def test_where_there_is_room_for_all_nothing_is_lost() -> None:
    assert share(others=0.3, worked=15.0) == 1.0
    assert share(others=0.9, worked=11.0) == 1.0, "batches that use one core find it beside a busy program"


def test_where_there_is_not_everybody_gets_less_in_proportion() -> None:
    assert share(others=1.0, worked=20.0) == pytest.approx(2 / 3)
    assert share(others=2.0, worked=20.0) == pytest.approx(1 / 2)
    assert share(others=2.0, worked=10.0) == pytest.approx(2 / 3)


def test_batches_use_no_more_cores_than_there_are() -> None:
    assert share(others=1.0, worked=90.0) == share(others=1.0, worked=20.0)


def test_on_one_core_client_and_front_end_take_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(left, "cores", lambda: 1)
    assert share(others=0.25, worked=10.0) == pytest.approx(0.8)


def test_what_is_not_known_takes_nothing_away() -> None:
    begin, end = Clocks(0.0, None, 0.0), Clocks(20.0, None, 10.0)
    assert share_left(begin, end, 10.0) == 1.0
    assert share(others=1.0, worked=0.0) == 1.0
    assert share(others=1.0, worked=10.0, alone=0.0) == 1.0
