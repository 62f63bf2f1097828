"""The whole way with a server that only pretends: what is sent, kept, printed, and what ends it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from triptych import catalog, simulate
from triptych.plan import PoolPlan, plan_pools
from triptych.profiles import here
from triptych.record import read_run
from triptych.spec.base import SpecError
from triptych.spec.calibration import Calibration
from triptych.spec.deployment import Deployment
from triptych.spec.workload import WorkloadSpec
from triptych.spec.yaml import dump_yaml, parse_yaml
from triptych.validation import console, server
from triptych.validation.api import validate
from triptych.validation.console import validate_and_report
from triptych.validation.files import COMPARISON_COLUMNS
from triptych.validation.server import Interrupted
from triptych.validation.watch import GoOn
from triptych.workload import Requests

FAKE = Path(__file__).with_name("fake_serve.py")
REQUESTS = 12
PROFILE = "cpu-opt-125m-fp32"
"""That is shipped."""
MANY = 10_000
"""Requests that nobody waits for."""


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "COMMAND", (str(FAKE),))
    monkeypatch.setattr(here, "is_this", lambda clocks, versions: False)  # whatever is in the library


@pytest.fixture
def deployment(tmp_path: Path) -> Path:
    return _file(
        tmp_path / "deployment.yaml",
        model="random:OPT-125M",
        pools={
            "all": {
                "phases": ["prefill", "decode"],
                "device": "CPU",
                "kv_blocks": 500,
                "scheduler": {"policy": "sarathi", "max_batch": 4},
            }
        },
    )


@pytest.fixture
def workload(tmp_path: Path) -> Path:
    return _file(
        tmp_path / "workload.yaml",
        requests=REQUESTS,
        arrivals={"kind": "poisson", "rate": 200},
        prompt={"kind": "uniform", "low": 5, "high": 30},
        output={"kind": "uniform", "low": 2, "high": 6},
    )


def _file(path: Path, **fields: Any) -> Path:
    path.write_text(dump_yaml(fields), encoding="utf-8")
    return path


def servers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if str(FAKE) in child.cmdline()]


def described(out: Path) -> Any:
    return json.loads((out / "validation.json").read_text(encoding="utf-8"))


class TestRecords:
    def test_both_sides_of_every_repetition_are_kept(
        self, deployment: Path, workload: Path, tmp_path: Path
    ) -> None:
        found = validate(deployment, workload, tmp_path / "out", repeats=2)
        (level,) = found.levels
        for number in (1, 2):
            measured = read_run(tmp_path / "out" / f"measured-{number}")
            predicted = read_run(tmp_path / "out" / f"predicted-{number}")
            assert (measured.producer, predicted.producer) == ("bench", "simulate")
            assert measured.finished.sum() == predicted.finished.sum() == REQUESTS
            assert predicted.requests["arrival"] == pytest.approx(measured.requests["arrival"])
            for name in ("prompt_tokens", "generated_tokens"):
                assert (predicted.requests[name] == measured.requests[name]).all()
            assert np.isfinite(level.comparisons[number - 1].pair("e2e")).all()
        assert servers() == []

    def test_the_key_of_the_users_own_server_is_not_that_of_this_one(
        self, deployment: Path, workload: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TRIPTYCH_API_KEY", "secret")
        (level,) = validate(deployment, workload, tmp_path / "out", repeats=1).levels
        assert level.measured[0].finished.all()

    def test_repetitions_send_the_same_requests_with_other_contents(
        self, deployment: Path, workload: Path, tmp_path: Path
    ) -> None:
        (level,) = validate(deployment, workload, tmp_path / "out", repeats=2).levels
        one, two = level.measured
        for name in ("prompt_tokens", "output_tokens", "due"):
            assert (one.requests[name] == two.requests[name]).all()
        assert one.meta["seed"] != two.meta["seed"]

    def test_a_prediction_can_be_made_again_from_its_folder(
        self, deployment: Path, workload: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        (level,) = validate(deployment, workload, out, repeats=1).levels
        again = simulate(out / "deployment.yaml", out / "predicted-1" / "workload.yaml")
        assert (again.column("ttft") == level.predicted[0].column("ttft")).all()

    def test_the_comparison_is_kept_as_rows_and_request_by_request(
        self, deployment: Path, workload: Path, tmp_path: Path
    ) -> None:
        (level,) = validate(deployment, workload, tmp_path / "out", repeats=2).levels
        kept = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
        assert described(tmp_path / "out")["levels"] == [kept]
        assert len(kept["rows"]) == 3 * 4 + 2
        first = kept["rows"][0]
        assert (first["metric"], first["statistic"]) == ("ttft", "mean")
        assert first["error"] == (first["predicted"] - first["measured"]) / first["measured"]
        assert first["interval"] > 0
        table = pq.read_table(tmp_path / "out" / "comparison.parquet").to_pydict()
        assert list(table) == list(COMPARISON_COLUMNS)
        assert table["repetition"] == [1] * REQUESTS + [2] * REQUESTS
        assert np.mean(table["measured_ttft"]) == pytest.approx(first["measured"])
        assert table["predicted_tpot"][:REQUESTS] == level.predicted[0].column("tpot").tolist()

    def test_an_earlier_validation_is_replaced_whole(
        self, deployment: Path, workload: Path, tmp_path: Path
    ) -> None:
        validate(deployment, workload, tmp_path / "out", repeats=2)
        validate(deployment, workload, tmp_path / "out", repeats=1)
        assert not (tmp_path / "out" / "measured-2").exists()
        assert not (tmp_path / "out" / "predicted-2").exists()

    def test_a_closed_loop_is_predicted_as_one(
        self, deployment: Path, workload: Path, tmp_path: Path
    ) -> None:
        closed = ("workload.arrivals={kind: closed, concurrency: 3}",)
        (level,) = validate(deployment, workload, tmp_path / "out", repeats=1, overrides=closed).levels
        arrival, end = (np.sort(level.predicted[0].requests[name]) for name in ("arrival", "end"))
        assert arrival[3:] == pytest.approx(end[:-3])


class TestLoad:
    def test_the_rate_is_a_share_of_the_capacity(
        self, deployment: Path, workload: Path, tmp_path: Path
    ) -> None:
        found = validate(deployment, workload, tmp_path / "out", repeats=1, loads=(0.5, 0.8))
        assert found.capacity is not None
        assert found.concurrency == 4
        assert [level.load for level in found.levels] == [0.5, 0.8]
        for level in found.levels:
            due = level.measured[0].requests["due"]
            assert level.load is not None
            assert (REQUESTS - 1) / np.ptp(due) == pytest.approx(level.load * found.capacity)
            assert read_run(level.folder / "predicted-1").finished.all()
        seeds = [run.meta["seed"] for level in found.levels for run in level.measured]
        assert len(set(seeds)) == 2
        assert described(tmp_path / "out")["capacity"] == found.capacity
        assert [one["folder"] for one in described(tmp_path / "out")["levels"]] == ["load-0.5", "load-0.8"]
        assert read_run(tmp_path / "out" / "capacity").finished.sum() == REQUESTS

    def test_requests_without_a_rate_are_refused_before_anything_starts(
        self, deployment: Path, workload: Path, tmp_path: Path
    ) -> None:
        at_once = ("workload.arrivals={kind: at-once}",)
        with pytest.raises(SpecError, match=r"workload\.yaml: arrivals: have no rate"):
            validate(deployment, workload, tmp_path / "out", loads=(0.5,), overrides=at_once)
        assert not (tmp_path / "out").exists()


class TestProfile:
    def test_a_model_beside_the_deployment_is_found_from_the_records_too(
        self, deployment: Path, workload: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also where the validation is run from another folder, and its records are read from a third."""
        shape = Path(catalog.__file__).parent / "data/models/opt-125m.json"
        (tmp_path / "mine.json").write_text(shape.read_text(encoding="utf-8"), encoding="utf-8")
        for folder in ("here", "there"):
            (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / "here")
        own = ("model=random:mine.json",)
        validate(deployment, workload, "out", repeats=1, overrides=own)
        monkeypatch.chdir(tmp_path / "there")
        for copy in ("out/deployment.yaml", "out/predicted-1/deployment.yaml"):
            file = tmp_path / "here" / copy
            assert Deployment.load(file).model == f"random:{tmp_path / 'mine.json'}"
            (plan,) = plan_pools(Deployment.load(file), file)
            assert plan.model.name == "mine"

    def test_predictions_rest_on_the_deployment_that_is_given_back(
        self, deployment: Path, workload: Path, tmp_path: Path
    ) -> None:
        def ensure(declared: Deployment, requests: Requests, go_on: GoOn) -> Deployment:
            pool = declared.pools["all"].model_copy(update={"device": "H100"})
            return declared.model_copy(update={"pools": {"all": pool}})

        (level,) = validate(deployment, workload, tmp_path / "out", repeats=1, ensure_profile=ensure).levels
        assert level.predicted[0].instances[0].device == "H100"
        assert Deployment.load(tmp_path / "out" / "deployment.yaml").pools["all"].device == "H100"

    def test_files_beside_the_deployment_are_found_from_the_records_too(
        self, deployment: Path, workload: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "mine.parquet").write_bytes(b"")
        (tmp_path / "mine.yaml").write_text(Calibration(iteration=0.5).to_yaml(), encoding="utf-8")
        named: list[tuple[str, ...]] = []

        def ensure(declared: Deployment, requests: Requests, go_on: GoOn) -> Deployment:
            named.append((*declared.pools["all"].profile, declared.calibration or ""))
            pool = declared.pools["all"].model_copy(update={"profile": ()})
            return declared.model_copy(update={"pools": {"all": pool}})

        def planned(declared: Deployment, file: Path | None = None) -> list[PoolPlan]:
            pool = declared.pools["all"].model_copy(update={"profile": ()})
            return plan_pools(declared.model_copy(update={"pools": {"all": pool}}), file)

        profile = ("pools.all.profile=[mine.parquet, catalogued]", "calibration=mine.yaml")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("triptych.validation.api.plan_pools", planned)
            (level,) = validate(
                deployment,
                workload,
                tmp_path / "out",
                repeats=1,
                overrides=profile,
                ensure_profile=ensure,
            ).levels
        assert named == [(str(tmp_path / "mine.parquet"), "catalogued", str(tmp_path / "mine.yaml"))]
        assert level.predicted[0].lanes[0]["first"].min() > 0.5

    def test_measuring_ends_when_it_is_told_to(
        self, deployment: Path, workload: Path, tmp_path: Path
    ) -> None:
        def ensure(declared: Deployment, requests: Requests, go_on: GoOn) -> Deployment:
            assert not go_on(3, 10, 1.0)
            raise Interrupted

        told: list[tuple[str, int, int, float]] = []

        def progress(*step: Any) -> bool:
            told.append(step)
            return False

        with pytest.raises(Interrupted):
            validate(deployment, workload, tmp_path / "out", ensure_profile=ensure, progress=progress)
        assert told == [("measuring operators", 3, 10, 1.0)]
        assert servers() == []


class TestPrinted:
    def report(self, deployment: Path, workload: Path, out: Path, **more: Any) -> int:
        return validate_and_report(deployment, workload, (), out=out, repeats=2, **more)

    def test_the_table_has_predicted_measured_and_error(
        self, deployment: Path, workload: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pytest.importorskip("scienceplots")
        assert self.report(deployment, workload, tmp_path / "out") == 0
        printed = capsys.readouterr().out
        assert "predictions rest on the roofline" in printed
        assert "triptych profile --model OPT-125M --device cpu --precision bf16" in printed
        assert not any(line.endswith(" ") for line in printed.splitlines())
        kept = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
        for row in kept["rows"]:
            assert f"{row['error'] * 100:+.1f}%" in printed
        assert (tmp_path / "out" / "comparison.pdf").is_file()
        assert (tmp_path / "out" / "comparison.png").is_file()

    def test_standard_output_is_json_alone_if_that_is_asked_for(
        self, deployment: Path, workload: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.report(deployment, workload, tmp_path / "out", json="-") == 0
        kept = json.loads((tmp_path / "out" / "validation.json").read_text(encoding="utf-8"))
        assert json.loads(capsys.readouterr().out) == kept

    @pytest.mark.parametrize(
        ("load", "how"),
        [
            (None, "12 requests x 2 repetitions"),
            ("0.5", "load 0.5 (... requests/s), 12 requests x 2 repetitions"),
        ],
    )
    def test_the_figure_says_what_it_is_of(
        self,
        load: str | None,
        how: str,
        deployment: Path,
        workload: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        titles: list[str] = []
        monkeypatch.setattr(console, "draw", lambda comparisons, title: titles.append(title))
        monkeypatch.setattr(console, "save", lambda figure, path: [path])
        self.report(deployment, workload, tmp_path / "out", load=load)
        (title,) = titles
        what, below = title.split("\n")
        assert what == "opt-125m on CPU, sarathi"
        assert re.fullmatch(re.escape(how).replace(re.escape("..."), ".+"), below)

    def test_a_bound_on_errors_decides_the_exit_code(
        self, deployment: Path, workload: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The fake server knows nothing of the CPU that is predicted."""
        assert self.report(deployment, workload, tmp_path / "out", within=1e6) == 0
        assert self.report(deployment, workload, tmp_path / "out", within=1e-6) == 1
        assert "a mean or P90 is off by" in capsys.readouterr().out

    def test_without_matplotlib_there_is_no_figure_and_all_else(
        self,
        deployment: Path,
        workload: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setitem(sys.modules, "scienceplots", None)
        assert self.report(deployment, workload, tmp_path / "out") == 0
        assert "pip install 'triptych[figures]'" in capsys.readouterr().out


class TestFaults:
    def test_a_server_that_does_not_start_has_the_word(
        self, deployment: Path, workload: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FAKE_LAST_WORDS", "deployment.yaml: pools: two are too many")
        with pytest.raises(SpecError, match=r"^deployment\.yaml: pools: two are too many$"):
            validate(deployment, workload, tmp_path / "out")

    @pytest.mark.parametrize("death", [1, 9], ids=["in the warm-up", "while it is measured"])
    def test_a_server_that_dies_ends_it_at_once(
        self,
        death: int,
        deployment: Path,
        workload: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("FAKE_DEATH", str(death))
        slow = ("workload.arrivals={kind: constant, rate: 0.01}",)  # it would go on for minutes
        began = time.monotonic()
        with pytest.raises(
            SpecError, match=r"exit code 1: the worker is gone; all it said is in .*server\.log"
        ):
            validate(deployment, workload, tmp_path / "out", overrides=slow)
        assert time.monotonic() - began < 60

    def test_a_server_that_refuses_all_is_quoted(
        self, deployment: Path, workload: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FAKE_REFUSE", "1")
        with pytest.raises(SpecError, match="not today"):
            validate(deployment, workload, tmp_path / "out")
        assert servers() == []

    def test_what_is_declared_wrongly_is_said_before_anything_starts(
        self, deployment: Path, workload: Path, tmp_path: Path
    ) -> None:
        for wrong, said in (
            ({"repeats": 0}, "--repeats: must be 1 or more"),
            ({"loads": (0.5, 1.5)}, "--load: '0.5,1.5' must be different shares of the capacity"),
            ({"overrides": ("pools.all.device=Nvidia",)}, "pools.all.device: 'Nvidia' is no known device"),
            ({"overrides": ("workload.arrivals.rat=3",)}, "arrivals.rat: no such field"),
            ({"overrides": ("workload.arrivals.rate.x=3",)}, "--set workload.arrivals.rate.x=3: "),
        ):
            with pytest.raises(SpecError) as error:
                validate(deployment, workload, tmp_path / "out", **wrong)  # type: ignore[arg-type]
            assert said in str(error.value)
        with pytest.raises(SpecError, match=r"nothing\.yaml: no such file"):
            validate(tmp_path / "nothing.yaml", workload, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_folder_of_something_else_is_left_alone(
        self, deployment: Path, workload: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(SpecError, match="holds something that is no validation"):
            validate(deployment, workload, tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["deployment.yaml", "workload.yaml"]


class TestInterrupts:
    @pytest.mark.parametrize("what", ["starting", "measuring, 1", "measuring, 2", "predicting, 1"])
    def test_it_ends_wherever_it_is_told_to(
        self, what: str, deployment: Path, workload: Path, tmp_path: Path
    ) -> None:
        steps: list[str] = []

        def progress(step: str, ended: int, total: int, seconds: float) -> bool:
            steps.append(step)
            return not step.startswith(what)

        with pytest.raises(Interrupted):
            validate(deployment, workload, tmp_path / "out", repeats=2, progress=progress)
        assert steps[-1].startswith(what)
        assert servers() == []
        kept = [path.name for path in sorted((tmp_path / "out").glob("measured-*"))]
        assert kept == {"measuring, 2": ["measured-1"], "predicting, 1": ["measured-1", "measured-2"]}.get(
            what, []
        )
        assert described(tmp_path / "out")["complete"] is False

    def test_what_is_left_says_what_predictions_would_have_rested_on(
        self, deployment: Path, workload: Path, tmp_path: Path
    ) -> None:
        """So that it can be calibrated with, also in the place of an earlier validation."""
        out = tmp_path / "out"
        validate(deployment, workload, out, repeats=1)

        def ensure(declared: Deployment, requests: Requests, go_on: GoOn) -> Deployment:
            pool = declared.pools["all"].model_copy(update={"device": "CPU-XEON-4", "profile": (PROFILE,)})
            return declared.model_copy(update={"pools": {"all": pool}})

        def progress(step: str, ended: int, total: int, seconds: float) -> bool:
            return step != "measuring, 2"

        fp32 = ("pools.all.precision={weights: fp32, kv: fp32, compute: fp32}", "workload.requests=7")
        with pytest.raises(Interrupted):
            validate(deployment, workload, out, overrides=fp32, ensure_profile=ensure, progress=progress)
        assert Deployment.load(out / "deployment.yaml").pools["all"].profile == (PROFILE,)
        assert WorkloadSpec.load(out / "workload.yaml").requests == 7
        assert not (out / "comparison.json").exists()

    @pytest.mark.parametrize(
        ("number", "times"), [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGINT, 2)]
    )
    def test_a_signal_ends_the_server_too(
        self, number: int, times: int, deployment: Path, workload: Path, tmp_path: Path
    ) -> None:
        _file(workload, **{**parse_yaml(workload.read_text()), "requests": MANY, "arrivals": _SLOW})
        words = [str(Path(__file__).with_name("run_alone.py")), str(deployment), str(workload)]
        process = subprocess.Popen(
            [sys.executable, *words, str(tmp_path / "out")], stderr=subprocess.PIPE, env={**os.environ}
        )
        try:
            (child,) = _wait_for(lambda: [c for c in psutil.Process(process.pid).children() if _serves(c)])
            _wait_for(lambda: (tmp_path / "out" / "requests.parquet").exists())
            for _ in range(times):
                process.send_signal(number)
                time.sleep(0.02)
            _, said = process.communicate(timeout=20)
        finally:
            process.kill()
        assert process.returncode == 130
        assert "interrupted;" in said.decode()
        assert not child.is_running()


_SLOW = {"kind": "constant", "rate": 1}


def _serves(process: psutil.Process) -> bool:
    try:
        return str(FAKE) in process.cmdline()
    except psutil.Error:
        return False


def _wait_for(done: Any, limit: float = 20) -> Any:
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if found := done():
            return found
        time.sleep(0.02)
    raise AssertionError("it does not come")
