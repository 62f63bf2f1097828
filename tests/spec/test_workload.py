"""What a workload file may say, and the one line a user reads when it says something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from triptych.spec.base import SpecError
from triptych.spec.slo import Slo
from triptych.spec.workload import WorkloadSpec
from triptych.spec.yaml import parse_yaml

PLAIN: dict[str, Any] = {
    "requests": 5,
    "arrivals": {"kind": "poisson", "rate": 2},
    "prompt": {"kind": "fixed", "tokens": 100},
    "output": {"kind": "fixed", "tokens": 10},
}
SIZE = {"width": 640, "height": 480}
TRACED = {"kind": "trace"}
SLICE = {"format": "azure", "path": "trace.csv"}
EXAMPLES = sorted((Path(__file__).parents[2] / "examples/workloads").glob("*.yaml"))


def parse(**changes: Any) -> WorkloadSpec:
    return WorkloadSpec.parse({**PLAIN, **changes}, file="w.yaml")


def quantiles(**values: float) -> dict[str, Any]:
    return {"kind": "quantiles", "values": values}


def test_units_are_read_into_base_units() -> None:
    spec = parse(duration="10 min", timeout="500 ms", slo={"ttft": {"p99": "2 s"}})
    assert (spec.duration, spec.timeout) == (600.0, 0.5)


def test_one_number_of_images_is_a_range_of_one() -> None:
    images = parse(images={"count": 3, "sizes": [SIZE]}).images
    assert images is not None
    assert (images.count.low, images.count.high) == (3, 3)


def test_what_is_not_declared_beside_a_trace_is_taken_from_it() -> None:
    spec = WorkloadSpec.parse({"trace": SLICE, "output": {"kind": "fixed", "tokens": 7}})
    assert [spec.arrivals.kind, spec.prompt.kind, spec.output.kind] == ["trace", "trace", "fixed"]


def test_quantiles_are_put_in_order() -> None:
    spec = parse(prompt=quantiles(p100=9, p0=1, p50=4))
    assert spec.prompt.kind == "quantiles"
    assert spec.prompt.points == ([0.0, 0.5, 1.0], [1.0, 4.0, 9.0])


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_comes_back_from_its_own_yaml(path: Path) -> None:
    spec = WorkloadSpec.load(path)
    assert WorkloadSpec.parse(parse_yaml(spec.to_yaml())) == spec


def test_there_are_examples() -> None:
    assert {path.name for path in EXAMPLES} >= {"chat.yaml", "vision-chat.yaml"}


class TestTracePath:
    @pytest.fixture
    def here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A current folder beside the folder of the workload file."""
        for folder in ("here", "files"):
            (tmp_path / folder).mkdir()
        (tmp_path / "files/w.yaml").write_text("trace: {format: azure, path: trace.csv}")
        monkeypatch.chdir(tmp_path / "here")
        return tmp_path / "here"

    def load(self) -> WorkloadSpec:
        return WorkloadSpec.load("../files/w.yaml")

    def path(self) -> Path:
        trace = self.load().trace
        assert trace is not None
        return Path(trace.path)

    def test_the_folder_of_the_workload_file_comes_first(self, here: Path) -> None:
        (here / "trace.csv").touch()
        (here.parent / "files/trace.csv").touch()
        assert self.path().samefile(here.parent / "files/trace.csv")

    def test_then_the_current_folder(self, here: Path) -> None:
        (here / "trace.csv").touch()
        assert self.path().samefile(here / "trace.csv")

    def test_it_is_absolute_so_that_a_copy_of_the_declaration_finds_it(self, here: Path) -> None:
        (here / "trace.csv").touch()
        assert self.path().is_absolute()

    def test_nowhere_is_an_error(self, here: Path) -> None:
        with pytest.raises(SpecError, match=r"w\.yaml: trace\.path: no such file: trace\.csv; correct"):
            self.load()


class TestSlo:
    def test_bounds_come_in_a_fixed_order(self) -> None:
        slo = Slo.parse({"e2e": {"p90": 30}, "ttft": {"p99": "2 s", "mean": "1 s"}, "itl": {"p95": 0.1}})
        assert slo.bounds() == [
            ("ttft", "mean", 1.0),
            ("ttft", "p99", 2.0),
            ("itl", "p95", 0.1),
            ("e2e", "p90", 30.0),
        ]

    def test_it_comes_back_from_its_own_yaml(self) -> None:
        slo = Slo.parse({"tpot": {"p99.9": 0.2}})
        assert Slo.parse(parse_yaml(slo.to_yaml())) == slo


WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    ("arrivals without a kind", {"arrivals": {"rate": 3}}, "arrivals", "give it a kind: one of"),
    ("unknown arrivals", {"arrivals": {"kind": "weibull"}}, "arrivals.kind", "must be 'poisson'"),
    ("misspelt arrivals", {"arrivals": {"kind": "poison"}}, "arrivals.kind", "did you mean 'poisson'?"),
    ("arrivals as a word", {"arrivals": "poisson"}, "arrivals", "write it as {kind: ...}"),
    ("no rate", {"arrivals": {"kind": "poisson"}}, "arrivals", "missing"),
    ("rate 0", {"arrivals": {"kind": "constant", "rate": 0}}, "arrivals", "equal to 0.000001, not 0"),
    ("cv 0", {"arrivals": {"kind": "gamma", "rate": 1, "cv": 0}}, "arrivals", "equal to 0.01, not 0"),
    ("nobody at once", {"arrivals": {"kind": "closed", "concurrency": 0}}, "arrivals", "not 0"),
    (
        "closed loop with a second limit",
        {"arrivals": {"kind": "closed", "concurrency": 4}, "max_concurrency": 2},
        "",
        "max_concurrency: closed arrivals have a concurrency of their own; remove it",
    ),
    ("trace arrivals, no trace", {"arrivals": TRACED}, "", "arrivals: kind trace needs a trace"),
    ("trace prompts, no trace", {"prompt": TRACED}, "", "prompt: kind trace needs a trace"),
    ("trace outputs, no trace", {"output": TRACED}, "", "output: kind trace needs a trace"),
    ("a trace that is not used", {"trace": SLICE}, "", "trace: nothing is taken from it"),
    (
        "closed loop with a time scale",
        {"arrivals": {"kind": "closed", "concurrency": 4}, "rate_scale": 2},
        "",
        "rate_scale: closed arrivals have no rate",
    ),
    (
        "closed loop with a duration",
        {"arrivals": {"kind": "closed", "concurrency": 4}, "duration": "1 min"},
        "",
        "duration: closed arrivals have no times to bound; use requests",
    ),
    (
        "all at once with a time scale",
        {"arrivals": {"kind": "at-once"}, "rate_scale": 2},
        "",
        "rate_scale: at-once arrivals",
    ),
    ("no end", {"requests": None}, "", "nothing ends the workload; give requests or duration"),
    (
        "closed loop without an end",
        {"requests": None, "arrivals": {"kind": "closed", "concurrency": 4}},
        "",
        "nothing ends the workload; give requests",
    ),
    ("endless requests", {"requests": 10**400}, "requests", "less than or equal to 100000000, not 1000"),
    (
        "requests that come for ever",
        {"requests": None, "duration": 1e6, "rate_scale": 1000},
        "",
        "duration: about 2e+09 requests come within it; make it shorter or give requests",
    ),
    ("no requests", {"requests": 0}, "requests", "greater than 0, not 0"),
    ("no time", {"duration": "0 s"}, "duration", "greater than 0"),
    ("negative seed", {"seed": -1}, "seed", "greater than or equal to 0"),
    ("stopped time", {"rate_scale": 0}, "rate_scale", "equal to 0.000001, not 0"),
    ("unknown unit", {"timeout": "3 weeks"}, "timeout", "is not a quantity"),
    ("no prompt", {"prompt": None}, "prompt", "write it as {kind: ...}"),
    ("prompt of nothing", {"prompt": {"kind": "fixed", "tokens": 0}}, "prompt", "greater than 0"),
    (
        "uniform upside down",
        {"prompt": {"kind": "uniform", "low": 9, "high": 3}},
        "prompt",
        "low (9) is above high (3); swap them",
    ),
    (
        "log-normal upside down",
        {"prompt": {"kind": "log-normal", "mean": 9, "sigma": 1, "low": 9, "high": 3}},
        "prompt",
        "low (9) is above high (3); swap them",
    ),
    (
        "log-normal with two centres",
        {"output": {"kind": "log-normal", "mean": 9, "median": 8, "sigma": 1}},
        "output",
        "either mean or median",
    ),
    (
        "log-normal without a centre",
        {"output": {"kind": "log-normal", "sigma": 1}},
        "output",
        "either mean or median",
    ),
    (
        "log-normal without spread",
        {"output": {"kind": "log-normal", "mean": 9, "sigma": 0}},
        "output",
        "greater than 0",
    ),
    ("quantiles without limits", {"prompt": quantiles(p50=3)}, "prompt", "give p0 and p100"),
    ("quantiles that fall", {"prompt": quantiles(p0=5, p50=3, p100=9)}, "prompt", "p0 (5) is above"),
    ("no percentile", {"prompt": quantiles(p0=1, p101=9)}, "prompt", "'p101' is no percentile"),
    ("a prompt of half a token", {"prompt": quantiles(p0=0.5, p100=9)}, "prompt", "equal to 1"),
    ("cap without room", {"caps": {"total": 1}}, "caps.total", "greater than or equal to 2"),
    ("images without sizes", {"images": {"sizes": []}}, "images.sizes", "no size is given; add"),
    ("sizes forgotten", {"images": {}}, "images.sizes", "missing"),
    (
        "flat image",
        {"images": {"sizes": [{"width": 640, "height": 0}]}},
        "images.sizes.0.height",
        "greater than 0",
    ),
    (
        "weightless size",
        {"images": {"sizes": [{**SIZE, "weight": 0}]}},
        "images.sizes.0.weight",
        "greater than 0",
    ),
    (
        "image count upside down",
        {"images": {"count": {"low": 3, "high": 1}, "sizes": [SIZE]}},
        "images.count",
        "low (3) is above high (1)",
    ),
    (
        "more than all requests",
        {"images": {"share": 1.2, "sizes": [SIZE]}},
        "images.share",
        "less than or equal to 1",
    ),
    ("no prefix groups", {"prefixes": {"groups": 0, "tokens": 5}}, "prefixes.groups", "not 0"),
    ("aborts without a time", {"aborts": {"share": 0.1}}, "aborts.after", "missing"),
    (
        "empty slice",
        {"trace": {**SLICE, "start": 9, "stop": 3}, "arrivals": TRACED},
        "trace",
        "stop (3 s) is not after start (9 s)",
    ),
    (
        "unknown format",
        {"trace": {**SLICE, "format": "xml"}, "arrivals": TRACED},
        "trace.format",
        "'azure', 'bailian', 'mooncake' or 'parquet'",
    ),
    ("slo without bounds", {"slo": {}}, "slo", "no bound is given; add one to ttft, tpot, itl or e2e"),
    ("bound without statistic", {"slo": {"ttft": 2}}, "slo.ttft", "such as {p99: 2 s}"),
    ("unknown statistic", {"slo": {"ttft": {"p98": 2}}}, "slo.ttft", "'p98' is no statistic; use"),
    ("bound of nothing", {"slo": {"ttft": {"p99": 0}}}, "slo.ttft.p99", "greater than 0"),
    (
        "a bound that says nothing",
        {"slo": {"e2e": {"p50": 9, "p99": 3}}},
        "slo.e2e",
        "p50 may be 9 s but p99 only 3 s",
    ),
    ("misspelt field", {"rate": 3}, "rate", "no such field; use one of requests, duration,"),
]


@pytest.mark.parametrize(
    ("changes", "field", "problem"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG]
)
def test_what_makes_no_sense_is_one_line(changes: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(**changes)
    line = str(caught.value)
    assert line.startswith(f"w.yaml: {field}")
    assert problem in line
    assert "\n" not in line
