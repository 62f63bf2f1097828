"""Reading traces: what is in them, the slice that is asked for, and the line that is wrong."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from triptych.spec.base import SpecError
from triptych.spec.workload import Trace, WorkloadSpec
from triptych.workload import Requests, generate
from triptych.workload.azure import read_azure
from triptych.workload.bailian import read_bailian
from triptych.workload.mooncake import read_mooncake
from triptych.workload.traces import read_trace

AZURE = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:51.2224670,879,55
"""
MOONCAKE = [
    {"timestamp": 1000, "input_length": 1030, "output_length": 5, "hash_ids": [0, 1, 2]},
    {"timestamp": 1000, "input_length": 600, "output_length": 1, "hash_ids": [0, 3]},
    {"timestamp": 2500, "input_length": 100, "output_length": 9, "hash_ids": [4]},
]
BAILIAN = [
    {
        "chat_id": chat,
        "parent_chat_id": -1,
        "timestamp": timestamp,
        "input_length": tokens,
        "output_length": 7,
        "type": "text",
        "turn": 1,
        "hash_ids": ids,
    }
    for chat, timestamp, tokens, ids in (
        (0, 61.114, 33, [3, 5, 8]),
        (1, 61.2, 48, [3, 5, 9]),
        (2, 63.614, 40, [3, 6]),  # the last 8 tokens have no id
    )
]
Path_ = Callable[[str], Path]


@pytest.fixture
def file(tmp_path: Path) -> Path_:
    """A trace with this text."""

    def written(text: str) -> Path:
        path = tmp_path / "trace"
        path.write_text(text, encoding="utf-8")
        return path

    return written


def lines(records: list[Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


class TestAzure:
    def test_times_count_from_the_first_request(self, file: Path_) -> None:
        requests = read_azure(file(AZURE))
        assert requests.arrival == pytest.approx([0, 4.314579, 4.541877], abs=1e-9)
        assert requests.text_tokens.tolist() == [374, 396, 879]
        assert requests.output_tokens.tolist() == [44, 109, 55]

    @pytest.mark.parametrize(
        "text", [AZURE.rstrip("\n"), AZURE.replace("\n", "\r\n"), "\ufeff" + AZURE, AZURE + "\n\n"]
    )
    def test_line_ends_do_not_matter(self, file: Path_, text: str) -> None:
        assert len(read_azure(file(text))) == 3

    @pytest.mark.parametrize(
        ("old", "new", "problem"),
        [
            ("ContextTokens", "Prompt", "line 1: the header must be TIMESTAMP,ContextTokens"),
            (AZURE, "", "line 1: the header must be .*, not nothing"),
            (AZURE[40:], "", "line 2: no request follows the header"),
            (",396", ",39x", "line 3, ContextTokens: must be a whole number of tokens, not '39x'"),
            (",396", ",", "line 3, ContextTokens: must be a whole number of tokens, not ''"),
            (",396", ",1.5", "line 3, ContextTokens: must be a whole number of tokens, not '1.5'"),
            (",396", ",0", "line 3, ContextTokens: must be at least 1, not 0; correct or remove"),
            (",55", ",-55", "line 4, GeneratedTokens: must be at least 1, not -55"),
            (",55", ",9" + "9" * 20, "line 4, GeneratedTokens: must be a whole number of tokens"),
            (",55", "", "line 4: 2 columns instead of 3; correct or remove the line"),
            ("18:15:50", "soon", "line 3, TIMESTAMP: must be a time such as 2023-11-16"),
            ("2023-11-16 18:15:50.9951690", "", "line 3, TIMESTAMP: no time"),
            ("18:15:51", "18:15:49", "line 4, TIMESTAMP: comes before the row above it; sort"),
        ],
    )
    def test_the_wrong_line_and_column_are_named(self, file: Path_, old: str, new: str, problem: str) -> None:
        path = file(AZURE.replace(old, new))
        with pytest.raises(SpecError, match=f"{path}: {problem}"):
            read_azure(path)

    def test_times_may_have_a_zone_as_in_the_files_of_2024(self, file: Path_) -> None:
        times = ["2024-05-10 23:59:59.5+00:00", "2024-05-11 02:00:00.75+02:00", "2024-05-11T00:00:01Z"]
        rows = [f"{time},10,2\n" for time in times]
        requests = read_azure(file("".join(["TIMESTAMP,ContextTokens,GeneratedTokens\n", *rows])))
        assert requests.arrival.tolist() == [0, 1.25, 1.5]

    def test_binary_is_no_csv(self, tmp_path: Path) -> None:
        (tmp_path / "trace").write_bytes(b"PAR1\xff\xfe\x00")
        with pytest.raises(SpecError, match="cannot be read as CSV"):
            read_azure(tmp_path / "trace")

    def test_the_published_conversations(self, real_trace: Path_) -> None:
        requests = read_azure(real_trace("azure2023_conv.csv"))
        assert len(requests) == 19_366
        assert requests.text_tokens.mean() == pytest.approx(1154.7, abs=0.1)
        assert requests.output_tokens.mean() == pytest.approx(211.1, abs=0.1)
        assert requests.arrival[-1] == pytest.approx(3501.721937)

    def test_the_published_code_completions(self, real_trace: Path_) -> None:
        requests = read_azure(real_trace("azure2023_code.csv"))
        assert (len(requests), requests.text_tokens.max()) == (8_819, 7_437)


class TestMooncake:
    def test_times_lengths_and_prefixes(self, file: Path_) -> None:
        requests = read_mooncake(file(lines(MOONCAKE)))
        assert requests.arrival.tolist() == [0, 0, 1.5]
        assert requests.text_tokens.tolist() == [1030, 600, 100]
        assert requests.output_tokens.tolist() == [5, 1, 9]
        assert requests.prefix_offsets.tolist() == [0, 3, 5, 6]
        assert requests.prefix_ids.tolist() == [0, 1, 2, 0, 3, 4]
        assert requests.prefix_block_tokens == 512

    def test_an_equal_first_id_is_512_equal_tokens(self, file: Path_) -> None:
        requests = read_mooncake(file(lines(MOONCAKE)))
        one, two = requests.block_hashes(0, 16, 1030), requests.block_hashes(1, 16, 600)
        assert (len(one), len(two)) == (1030 // 16, 600 // 16)
        assert one[: 512 // 16] == two[: 512 // 16]
        assert not set(one[512 // 16 :]) & set(two)

    @pytest.mark.parametrize(
        ("field", "value", "problem"),
        [
            ("timestamp", "noon", "line 2, timestamp: must be a number of milliseconds, not 'noon'"),
            ("timestamp", float("nan"), "line 2, timestamp: must be a number of milliseconds"),
            ("timestamp", 10, "line 2, timestamp: comes before the row above it; sort"),
            ("input_length", 2.5, "line 2, input_length: must be a whole number of tokens, not 2.5"),
            ("input_length", True, "line 2, input_length: must be a whole number"),
            ("input_length", 10**30, "line 2, input_length: must be a whole number"),
            ("input_length", 0, "line 2, input_length: must be at least 1, not 0"),
            ("output_length", -1, "line 2, output_length: must be at least 1, not -1"),
            ("hash_ids", 7, "line 2, hash_ids: must be a list, not 7"),
            ("hash_ids", [1, "a"], "line 2, hash_ids: must hold whole numbers, not 'a'"),
        ],
    )
    def test_the_wrong_line_and_field_are_named(
        self, file: Path_, field: str, value: object, problem: str
    ) -> None:
        path = file(lines([MOONCAKE[0], {**MOONCAKE[1], field: value}, MOONCAKE[2]]))
        with pytest.raises(SpecError, match=f"{path}: {problem}"):
            read_mooncake(path)

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("", "no request in the file"),
            ("{", "line 1: not JSON"),
            pytest.param("[" * 100_000, r"line 1: not JSON \(nested too deeply\)", id="brackets"),
            ("[1]", "line 1: not a JSON object"),
            ('{"timestamp": 1}', "line 1, input_length: missing"),
        ],
    )
    def test_what_is_no_trace_at_all(self, file: Path_, text: str, problem: str) -> None:
        with pytest.raises(SpecError, match=problem):
            read_mooncake(file(text))

    def test_the_published_conversations(self, real_trace: Path_) -> None:
        requests = read_mooncake(real_trace("mooncake_conversation.jsonl"))
        assert len(requests) == 12_031
        assert requests.text_tokens.mean() == pytest.approx(12_035.1, abs=0.1)
        assert requests.arrival[-1] == pytest.approx(3536.999)
        first, second = requests.block_hashes(0, 512, 6758), requests.block_hashes(1, 512, 7322)
        assert (len(first), len(second)) == (13, 14)
        assert first[0] == second[0]
        assert not set(first[1:]) & set(second[1:])


class TestBailian:
    def test_seconds_and_ids_of_16_tokens(self, file: Path_) -> None:
        requests = read_bailian(file(lines(BAILIAN)))
        assert requests.arrival == pytest.approx([0, 0.086, 2.5])
        assert requests.text_tokens.tolist() == [33, 48, 40]
        assert requests.prefix_ids.tolist() == [3, 5, 8, 3, 5, 9, 3, 6]
        assert requests.prefix_block_tokens == 16

    def test_read_as_mooncake_it_is_refused_with_its_name(self, file: Path_) -> None:
        path = file(lines(BAILIAN))
        says = "line 1, hash_ids: 3 ids for 33 tokens, .*; set format: bailian, .* timestamps in seconds"
        with pytest.raises(SpecError, match=f"{path}: {says}"):
            read_mooncake(path)

    def test_so_is_mooncakes_read_as_this(self, file: Path_) -> None:
        with pytest.raises(
            SpecError, match=r"line 1, hash_ids: 3 ids for 1030 tokens, .*; set format: mooncake"
        ):
            read_bailian(file(lines(MOONCAKE)))

    @pytest.mark.parametrize("read", [read_bailian, read_mooncake])
    def test_ids_that_no_format_explains(self, file: Path_, read: Callable[[Path], Requests]) -> None:
        row = {**MOONCAKE[0], "hash_ids": [0, 1]}
        with pytest.raises(SpecError, match=r"line 1, hash_ids: 2 ids for 1030 tokens.*; correct or remove"):
            read(file(lines([row])))


def texts() -> dict[str, tuple[str, list[float]]]:
    return {
        "azure": (AZURE, [0, 4.314579, 4.541877]),
        "mooncake": (lines(MOONCAKE), [0, 0, 1.5]),
        "bailian": (lines(BAILIAN), [0, 0.086, 2.5]),
    }


@pytest.mark.parametrize("kind", texts())
class TestText:
    """What every reader of text takes."""

    def read(self, kind: str, path: Path, **part: Any) -> list[float]:
        return read_trace(Trace.parse({"format": kind, "path": str(path), **part})).arrival.tolist()

    @pytest.mark.parametrize("before", ["", "\ufeff"])
    @pytest.mark.parametrize("after", ["", "\n", "\r\n\n"])
    def test_a_byte_order_mark_and_empty_last_lines(
        self, kind: str, file: Path_, before: str, after: str
    ) -> None:
        text, times = texts()[kind]
        assert self.read(kind, file(before + text + after)) == pytest.approx(times)

    def test_compressed(self, kind: str, tmp_path: Path) -> None:
        text, times = texts()[kind]
        path = tmp_path / "trace.gz"
        path.write_bytes(gzip.compress(text.encode()))
        assert self.read(kind, path) == pytest.approx(times)
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(SpecError, match=f"{path}: cannot be read as"):
            self.read(kind, path)

    def test_an_empty_line_in_the_middle_is_told(self, kind: str, file: Path_) -> None:
        text, _ = texts()[kind]
        first, rest = text.split("\n", 1)
        with pytest.raises(SpecError, match="line 2"):
            self.read(kind, file(f"{first}\n\n{rest}"))

    def test_no_more_is_read_than_is_wanted(self, kind: str, file: Path_) -> None:
        """The file is long, and its end is broken."""
        text, _ = texts()[kind]
        *head, last = text.splitlines()
        long = "\n".join([*head, *[last] * 5000, "broken"])
        assert len(self.read(kind, file(long), limit=3)) == 3
        assert len(self.read(kind, file(long), stop=1.0)) >= 1
        with pytest.raises(SpecError, match="line 500"):
            self.read(kind, file(long))

    def test_requests_of_the_workload_are_such_a_limit(self, kind: str, file: Path_) -> None:
        text, _ = texts()[kind]
        *head, last = text.splitlines()
        path = file("\n".join([*head, *[last] * 5000, "broken"]))
        spec = {"trace": {"format": kind, "path": str(path)}, "requests": 4}
        assert len(generate(WorkloadSpec.parse(spec))) == 4


class TestSlice:
    def read(self, file: Path_, **part: Any) -> Requests:
        path = str(file(lines(MOONCAKE)))
        return read_trace(Trace.parse({"format": "mooncake", "path": path, **part}), file="w.yaml")

    def test_its_start_is_the_new_zero(self, file: Path_) -> None:
        requests = self.read(file, start=1)
        assert requests.arrival.tolist() == [0.5]
        assert requests.prefix_ids.tolist() == [4]

    def test_its_stop_is_left_out(self, file: Path_) -> None:
        assert self.read(file, stop=1.5).output_tokens.tolist() == [5, 1]

    def test_a_limit_keeps_the_first(self, file: Path_) -> None:
        requests = self.read(file, limit=2)
        assert requests.prefix_ids.tolist() == [0, 1, 2, 0, 3]

    def test_an_empty_one_says_how_long_the_trace_is(self, file: Path_) -> None:
        with pytest.raises(SpecError, match=r"w\.yaml: trace: .* runs from 0 s to 1\.5 s"):
            self.read(file, start=60)

    def test_a_trace_that_is_not_there(self) -> None:
        spec = WorkloadSpec.parse({"trace": {"format": "azure", "path": "nowhere.csv"}})
        with pytest.raises(SpecError, match=r"trace\.path: no such file: nowhere\.csv"):
            generate(spec)
