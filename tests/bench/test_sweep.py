"""A sweep finds the rate from which on a server falls behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from triptych.bench import sweep
from triptych.bench.answer import Answer
from triptych.bench.assemble import request_columns, token_spans
from triptych.bench.bodies import Form
from triptych.bench.console import sweep_and_report
from triptych.bench.server import Server
from triptych.bench.tables import print_sweep
from triptych.bench.words import TokenIds
from triptych.policy import Status
from triptych.record import STATUSES, Run
from triptych.spec.base import SpecError
from triptych.spec.workload import Constant, WorkloadSpec
from triptych.workload import generate

from .fake_server import serving


def workload(**fields: Any) -> WorkloadSpec:
    defaults = {
        "requests": 150,
        "arrivals": {"kind": "constant", "rate": 1},
        "prompt": {"kind": "fixed", "tokens": 8},
        "output": {"kind": "fixed", "tokens": 2},
    }
    return WorkloadSpec.parse(defaults | fields)


@pytest.mark.parametrize(("arrivals", "off"), [("constant", 0.06), ("poisson", 0.12)])
def test_the_capacity_of_a_single_server_is_found(
    monkeypatch: pytest.MonkeyPatch, arrivals: str, off: float
) -> None:
    """It takes 8 ms a request, one after the other: 125 requests/s. The times are made up."""
    monkeypatch.setitem(sweep.__globals__, "bench", one_after_the_other)
    found = sweep(workload(arrivals={"kind": arrivals, "rate": 1}), "", 100)
    assert found.capacity == pytest.approx(125, rel=off)
    high = [point for point in found.points if point.rate > 160]
    assert high
    assert all("are answered" in point.problem for point in high)


def test_the_slo_bounds_it_before_throughput_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above 160 requests/s an answer waits 0.2 s, however many there are. The times are made up."""
    monkeypatch.setitem(sweep.__globals__, "bench", slow_above_160)
    found = sweep(workload(slo={"ttft": {"p90": "100 ms"}}), "", 100)
    assert found.capacity is not None
    assert 160 / 1.06 <= found.capacity <= 160
    assert {point.problem for point in found.points} == {"", "TTFT p90 is 0.2 s, above 0.1 s"}
    assert all((point.rate > 160) == bool(point.problem) for point in found.points)


def one_after_the_other(spec: WorkloadSpec, server: str, **options: Any) -> Run:
    """What a bench would measure of a server that takes 8 ms a request."""

    def first_tokens(arrivals: list[float]) -> Iterator[float]:
        free = 0.0
        for due in arrivals:
            free = max(free, due) + 0.008
            yield free

    return made_up(spec, first_tokens)


def slow_above_160(spec: WorkloadSpec, server: str, **options: Any) -> Run:
    """What a bench would measure of a server whose answers are late above a rate."""
    assert isinstance(spec.arrivals, Constant)
    wait = 0.2 if spec.arrivals.rate > 160 else 0.05
    return made_up(spec, lambda arrivals: (due + wait for due in arrivals))


def made_up(spec: WorkloadSpec, first_tokens: Callable[[list[float]], Iterator[float]]) -> Run:
    """A run whose second tokens come 10 ms after the first."""
    requests = generate(spec)
    arrivals = requests.arrival.tolist()
    answers = [Answer(sent=due) for due in arrivals]
    for answer, time in zip(answers, first_tokens(arrivals), strict=True):
        answer.token(time)
        answer.token(time + 0.01)
        answer.status = Status.FINISHED
    columns = request_columns(requests, answers, 0.0, Form("fake", "completions", TokenIds(0, 9), False))
    horizon = float(columns["end"].max())
    slo = [] if spec.slo is None else spec.slo.bounds()
    return Run(columns, [], token_spans(answers, 0.0), [], horizon, slo=slo, producer="bench")


def test_every_rate_has_contents_of_its_own() -> None:
    with serving(service=0.004) as fake:
        found = sweep(workload(requests=60), fake.url, 200)
    prompts = [tuple(body["prompt"]) for body in fake.asked]
    assert len(found.points) > 2
    assert len(set(prompts)) == len(prompts) == 60 * len(found.points)


def test_a_workload_without_rate_is_refused() -> None:
    with pytest.raises(SpecError, match="arrivals: closed arrivals have no rate to sweep"):
        sweep(workload(arrivals={"kind": "closed", "concurrency": 2}), "http://127.0.0.1:9/v1", 1)


def test_a_sweep_leaves_a_table_and_the_run_of_each_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "w.yaml").write_text(workload(requests=60).to_yaml())
    with serving(service=0.004) as fake:
        out = tmp_path / "sweep"
        assert sweep_and_report(tmp_path / "w.yaml", Server(fake.url), [], start=150, out=out, warmup=0)
    table = json.loads((out / "sweep.json").read_text())
    rates = [row["rate"] for row in table["points"]]
    assert rates == sorted(rates)
    assert all((out / row["folder"] / "run.json").is_file() for row in table["points"])
    assert [row["keeps_up"] for row in table["points"]].count(True) >= 1
    shown = capsys.readouterr().out
    assert f"keeps up with {table['capacity']:.0f} requests/s" in shown


def test_a_bound_that_an_idle_server_misses_ends_the_sweep(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An answer waits 0.2 s even where it is the only one: no rate is low enough."""
    asked: list[WorkloadSpec] = []

    def always_slow(spec: WorkloadSpec, server: str, **options: Any) -> Run:
        asked.append(spec)
        return made_up(spec, lambda arrivals: (due + 0.2 for due in arrivals))

    monkeypatch.setitem(sweep.__globals__, "bench", always_slow)
    found = sweep(workload(slo={"ttft": {"p90": "100 ms"}}), "", 100)
    assert (len(found.points), found.capacity) == (1, None)
    assert found.hopeless == "requests one after the other: TTFT p90 is 0.2 s, above 0.1 s"
    assert [spec.arrivals.kind for spec in asked] == ["constant", "closed"]
    print_sweep(found, Console(width=80))
    shown = capsys.readouterr().out
    assert "no rate can be kept up with" in shown
    assert found.hopeless in shown


def test_a_bound_that_is_met_alone_and_at_no_rate_ends_where_requests_hardly_meet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The twenty requests that are sent one by one are quick, and those of every rate are not."""

    def slow_at_any_rate(spec: WorkloadSpec, server: str, **options: Any) -> Run:
        wait = 0.05 if spec.arrivals.kind == "closed" else 0.2
        return made_up(spec, lambda arrivals: (due + wait for due in arrivals))

    monkeypatch.setitem(sweep.__globals__, "bench", slow_at_any_rate)
    found = sweep(workload(slo={"ttft": {"p90": "100 ms"}}), "", 100)
    assert found.capacity is None
    assert found.hopeless.endswith("where few requests meet another: TTFT p90 is 0.2 s, above 0.1 s")
    assert len(found.points) < 9


def test_the_reasons_of_a_sweep_are_shown_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "status 503: the queue of this server holds 1,024 requests and has no room for another one"

    def refusing(spec: WorkloadSpec, server: str, **options: Any) -> Run:
        run = made_up(spec, lambda arrivals: (due + 0.05 for due in arrivals))
        if spec.arrivals.kind != "closed" and spec.arrivals.rate > 100:
            run.requests["status"][:] = STATUSES.index("rejected")
            return replace(run, meta={"errors": {said: len(run)}})
        return run

    monkeypatch.setitem(sweep.__globals__, "bench", refusing)
    found = sweep(workload(), "", 100)
    print_sweep(found, Console(width=80))
    shown = " ".join(capsys.readouterr().out.split())
    assert f"200 requests/s: 150 of 150 requests failed ({said})" in shown
    assert found.hopeless == ""
