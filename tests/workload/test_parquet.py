"""Our own trace format: a round trip keeps every bit, and other tools' files are checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from triptych.spec.base import SpecError
from triptych.spec.workload import WorkloadSpec
from triptych.workload import Requests, generate, parquet, read_parquet, write_parquet

MINIMAL: dict[str, Any] = {
    "arrival": [0.0, 1.5],
    "text_tokens": [10, 20],
    "output_tokens": [3, 4],
}
IMAGES: dict[str, Any] = {
    "image_width": [[640, 32], [8]],
    "image_height": [[480, 32], [8]],
    "image_content": [[1, 2], [1]],
}
Write = Callable[[dict[str, Any]], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(columns: dict[str, Any]) -> Path:
        pq.write_table(pa.table(columns), tmp_path / "requests.parquet")
        return tmp_path / "requests.parquet"

    return written


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"arrivals": {"kind": "closed", "concurrency": 3}},
        {
            "images": {"share": 0.5, "sizes": [{"width": 7, "height": 9}]},
            "prefixes": {"groups": 3, "tokens": 32, "share": 0.5},
            "timeout": 3,
            "aborts": {"share": 0.4, "after": 2},
        },
    ],
    ids=["text", "closed loop", "everything"],
)
def test_what_is_written_is_read(
    sections: dict[str, Any],
    declare: Callable[..., WorkloadSpec],
    differing: Callable[[Requests, Requests], list[str]],
    tmp_path: Path,
) -> None:
    requests = generate(declare(**sections))
    write_parquet(requests, tmp_path / "requests.parquet")
    assert differing(read_parquet(tmp_path / "requests.parquet"), requests) == []


def test_three_columns_are_enough(write: Write) -> None:
    requests = read_parquet(write(MINIMAL))
    assert requests.arrival.tolist() == [0.0, 1.5]
    assert requests.image_counts.tolist() == [0, 0]
    assert requests.concurrency is None


def test_images_of_another_tool(write: Write) -> None:
    requests = read_parquet(write(MINIMAL | IMAGES))
    assert requests.image_offsets.tolist() == [0, 2, 3]
    assert requests.image_content.tolist() == [1, 2, 1]


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"arrival": [0.0]}, "text_tokens: missing; add the column"),
        (MINIMAL | {"speed": [1, 2]}, "speed: no such column; remove it"),
        (MINIMAL | {"arrival": ["a", "b"]}, "arrival: must be float64, which string does not fit"),
        (MINIMAL | {"text_tokens": [1.5, 2.0]}, "text_tokens: must be int64, which double does"),
        (MINIMAL | {"text_tokens": [5, None]}, "row 1, text_tokens: has no value"),
        (MINIMAL | {"text_tokens": [5, 0]}, "row 1, text_tokens: must be at least 1, not 0"),
        (MINIMAL | {"output_tokens": [-5, 3]}, "row 0, output_tokens: must be at least 1, not -5"),
        (MINIMAL | {"arrival": [3.0, 1.0]}, "row 1, arrival: comes before the row above it"),
        (MINIMAL | {"arrival": [0.0, float("nan")]}, "row 1, arrival: must be 0 or later, not nan"),
        (MINIMAL | {"patience": [-1.0, 1.0]}, "row 0, patience: must be 0 or more, not -1"),
        (MINIMAL | {"image_width": [[1], [2]]}, "image_height: missing beside image_width; add"),
        (MINIMAL | IMAGES | {"image_width": [6, 3]}, "image_width: must hold lists, not int64"),
        (
            MINIMAL | IMAGES | {"image_height": [[4, 3], []]},
            "row 1, image_height: must be as long as image_width",
        ),
        (
            MINIMAL | IMAGES | {"image_height": [[4, 3], [0]]},
            "row 1, image_height: must be at least 1, not 0",
        ),
        (
            MINIMAL | IMAGES | {"image_content": [[1, 2], None]},
            "row 1, image_content: has no value",
        ),
        (MINIMAL | {"prefix_ids": [[1], [2]]}, "metadata: prefix ids need prefix_block_tokens"),
        ({name: [] for name in MINIMAL}, "no request in the file"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_the_wrong_row_and_column_are_named(write: Write, columns: dict[str, Any], problem: str) -> None:
    path = write(columns)
    with pytest.raises(SpecError) as caught:
        read_parquet(path)
    assert str(caught.value).startswith(f"{path}: {problem}")
    assert "\n" not in str(caught.value)


def test_another_file_is_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "trace").write_text("TIMESTAMP")
    with pytest.raises(SpecError, match="cannot be read as Parquet"):
        read_parquet(tmp_path / "trace")


class TestUnixTimes:
    """Seconds of the Unix clock, as other tools write them, count from the first."""

    def test_they_are_shifted_and_that_is_said(self, write: Write, caplog: pytest.LogCaptureFixture) -> None:
        path = write({**MINIMAL, "arrival": [1.7e9, 1.7e9 + 1.5]})
        assert read_parquet(path).arrival.tolist() == [0, 1.5]
        (said,) = caplog.messages
        assert said == f"{path}: arrival: Unix times, counted from the first, 2023-11-14 22:13:20 UTC"

    def test_a_slice_counts_from_there(self, write: Write) -> None:
        path = write({**MINIMAL, "arrival": [1.7e9, 1.7e9 + 1.5]})
        trace = {"format": "parquet", "path": str(path), "start": 1}
        assert generate(WorkloadSpec.parse({"trace": trace})).arrival.tolist() == [0.5]

    def test_milliseconds_are_refused(self, write: Write) -> None:
        path = write({**MINIMAL, "arrival": [1.7e12, 1.7e12 + 1500]})
        with pytest.raises(SpecError, match=r"row 0, arrival: .*; write seconds"):
            read_parquet(path)

    def test_other_times_are_as_written(self, write: Write, caplog: pytest.LogCaptureFixture) -> None:
        path = write({**MINIMAL, "arrival": [86_400.0, 86_401.0]})
        assert read_parquet(path).arrival.tolist() == [86_400, 86_401]
        assert not caplog.messages


def test_no_more_is_read_than_is_wanted(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_AT_A_TIME", 100)
    n = 2000
    columns = {"arrival": [float(i) for i in range(n)], "text_tokens": [10] * n, "output_tokens": [3] * n}
    path = write({**columns, "output_tokens": [3] * (n - 1) + [-1]})  # at the end of the file
    trace = {"format": "parquet", "path": str(path)}
    spec = WorkloadSpec.parse({"trace": {**trace, "start": 500}, "requests": 60})
    assert generate(spec).arrival.tolist() == [float(i) for i in range(60)]
    spec = WorkloadSpec.parse({"trace": {**trace, "stop": 250}})
    assert len(generate(spec)) == 250
    with pytest.raises(SpecError, match=f"row {n - 1}, output_tokens"):
        generate(WorkloadSpec.parse({"trace": trace}))
