"""The time around the scheduler: the server's own front end, before a worker that answers at once."""

from __future__ import annotations

from pathlib import Path

from tests.engine.tiny import config_file

from triptych.profiler.front import measure_front_end


def test_requests_are_measured_by_the_images_in_them(tmp_path: Path) -> None:
    rows = measure_front_end(str(config_file("qwen2_5_vl", tmp_path)), 2)
    assert [(row["operator"], row["units"]) for row in rows] == [("front end", count) for count in (0, 1, 2)]
    assert all(0 < row["seconds"] < 5 for row in rows)


def test_of_a_model_that_reads_text_alone_they_have_none(tmp_path: Path) -> None:
    (row,) = measure_front_end(str(config_file("opt", tmp_path)), 2)
    assert (row["operator"], row["units"], row["repeats"]) == ("front end", 0, 2)
