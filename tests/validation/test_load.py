"""Shares of the capacity, and the capacity."""

from __future__ import annotations

import numpy as np
import pytest
from tests.record.build import run

from triptych.spec.base import SpecError
from triptych.validation.load import answer_rate, at_rate, check_rate, parse_loads
from triptych.workload import Requests


def test_loads_are_a_list() -> None:
    assert parse_loads("0.5,0.85") == (0.5, 0.85)
    assert parse_loads("1") == (1.0,)
    assert parse_loads(" 0.5 , 0.85") == (0.5, 0.85)


@pytest.mark.parametrize(
    "text", ["", "half", "0.5,", "0", "-0.5", "0.5,0.5", "0.5,0.5000000001", "1.5", "0.5,1.01", "nan", "inf"]
)
def test_what_is_no_list_of_shares_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"--load: .*write it like 0\.5,0\.85"):
        parse_loads(text)


def test_the_pattern_of_arrivals_is_stretched() -> None:
    arrival = np.array([0.0, 1.0, 1.5, 3.0, 4.0])
    slower = at_rate(Requests.plain(arrival), 0.5)
    assert slower.arrival.tolist() == (arrival * 2).tolist()


@pytest.mark.parametrize("arrival", [[0.0, 0.0, 0.0], [2.0]])
def test_requests_that_come_at_once_have_no_rate(arrival: list[float]) -> None:
    with pytest.raises(SpecError, match=r"work\.yaml: arrivals: have no rate"):
        check_rate(Requests.plain(np.array(arrival)), "work.yaml")


def test_the_rate_of_answers_leaves_out_how_the_loop_fills_and_empties() -> None:
    """Nothing for 50 s, then two a second, and one that takes for ever."""
    ends = [50 + number / 2 for number in range(40)] + [500.0]
    rows = [{"arrival": 0, "first_token": 1, "end": end, "generated_tokens": 2} for end in ends]
    assert answer_rate(run(rows)) == pytest.approx(2)


def test_too_few_answers_tell_no_rate() -> None:
    with pytest.raises(SpecError, match="1 answers tell no capacity"):
        answer_rate(run([{"arrival": 0, "first_token": 1, "end": 2, "generated_tokens": 2}]))
