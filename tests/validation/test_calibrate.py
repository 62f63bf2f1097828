"""A calibration gives back the coefficients that a run was made with, and says what a run cannot tell."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tests.record import build

from triptych import simulate
from triptych.plan import plan_pools
from triptych.record import LaneLog, Run, write_run
from triptych.spec.base import SpecError
from triptych.spec.calibration import Calibration, Factors
from triptych.spec.deployment import Deployment
from triptych.spec.workload import WorkloadSpec
from triptych.spec.yaml import parse_yaml
from triptych.validation import calibrate as calibrate_module
from triptych.validation import calibration_fit as fit_module
from triptych.validation.calibrate import ALL, Calibrated, Errors, Judged, calibrate, host_time
from triptych.validation.calibration_delays import BEGAN, delays, link_share
from triptych.validation.calibration_fit import CLASSES, Observed, fit, relative_errors
from triptych.validation.calibration_pairs import paired
from triptych.validation.calibration_report import (
    calibrate_and_report,
    print_calibration,
    write_calibration,
)

NOISE = 0.03
HALF_WITHIN = 0.6745 * NOISE
"""Median of the unsigned value of normal noise."""
DEPLOYMENT = """\
model: Qwen2.5-VL-7B
pools:
  all:
    phases: [encode, prefill, decode]
    device: A100-80GB
    parallel: {tensor: 2}
    scheduler: {policy: unified, max_batch: 64, max_tokens: 2048}
"""
WORKLOAD: dict[str, Any] = {
    "requests": 60,
    "arrivals": {"kind": "poisson", "rate": 6},
    "prompt": {"kind": "uniform", "low": 100, "high": 3000},
    "output": {"kind": "uniform", "low": 10, "high": 60},
    "images": {"share": 0.4, "count": {"low": 1, "high": 2}, "sizes": [{"width": 448, "height": 448}]},
}
TRUE = Calibration(
    iteration=0.003,
    sequence=0.0004,
    image=0.02,
    factors=Factors(matmul=1.4, attention=2.5, memory=0.7, network=1.8),
)

calibrations = st.builds(
    Calibration,
    iteration=st.floats(0, 0.01),
    sequence=st.floats(0, 0.002),
    image=st.floats(0, 0.1),
    factors=st.builds(Factors, **{name: st.floats(0.4, 3) for name in CLASSES}),
)


def declared(deployment: str = DEPLOYMENT) -> Deployment:
    return Deployment.parse(parse_yaml(deployment))


def simulated(deployment: str = DEPLOYMENT, **workload: Any) -> Run:
    return simulate(declared(deployment), WorkloadSpec.parse({**WORKLOAD, **workload}), jump=False)


RUN = simulated()


def observed(run: Run = RUN, deployment: str = DEPLOYMENT) -> Observed:
    """The batches of a run, taking as long as is predicted."""
    (plan,) = plan_pools(declared(deployment))
    (lane,) = run.lanes
    host = host_time(plan.cost)
    ones = np.ones(len(lane))
    return Observed(
        seconds=lane.seconds,
        iterations=lane["iterations"],
        sampled=lane["sampled"],
        images=lane["images"],
        predicted=plan.cost.breakdown(lane.columns)[0],
        host=(host.iteration * ones, host.sequence * ones),
    )


OBSERVED = observed()


def measured(by: Calibration, of: Observed = OBSERVED, *, noise: float = NOISE, seed: int = 0) -> Observed:
    """The same batches, taking as long as a calibration says, but for noise."""
    factor = 1 + noise * np.random.default_rng(seed).standard_normal(len(of))
    return replace(of, seconds=of.calibrated(by) * factor)


def halves(of: Observed) -> tuple[Observed, Observed]:
    second = np.arange(len(of)) // 20 % 2 == 1
    return of.take(~second), of.take(second)


def varied(rows: int = 1000) -> Observed:
    """Rows whose time is by turns mostly that of each class, of each kind of host time, or of all."""
    draw = np.random.default_rng(1)
    weight = draw.dirichlet(np.full(7, 0.3), rows) * draw.uniform(0.01, 0.1, (rows, 1))
    return Observed(
        seconds=np.ones(rows),
        iterations=np.ones(rows),
        sampled=np.floor(weight[:, 4] * 1000),
        images=np.floor(weight[:, 5] * 100),
        predicted={name: weight[:, place] for place, name in enumerate(CLASSES)},
        host=(np.full(rows, 1e-3), np.zeros(rows)),
    )


VARIED = varied()


class TestFit:
    @given(calibrations, st.integers(0, 99))
    @settings(max_examples=60)
    def test_gives_back_what_a_run_was_made_with(self, true: Calibration, seed: int) -> None:
        """Factors to 8 %, or 0.05; host time to 8 %, or a twentieth of what an iteration takes in all."""
        fitted, _ = halves(measured(true, VARIED, seed=seed))
        found = fit(fitted)
        assert not found.absent + found.small + found.shared + found.unsure
        for name in CLASSES:
            assert getattr(found.calibration.factors, name) == pytest.approx(
                getattr(true.factors, name), rel=0.08, abs=0.05
            )
        for name, least in (("iteration", 5e-4), ("sequence", 2e-5), ("image", 1e-3)):
            assert getattr(found.calibration, name) == pytest.approx(getattr(true, name), rel=0.08, abs=least)

    @given(calibrations, st.integers(0, 99))
    @settings(max_examples=60)
    def test_errs_on_batches_held_out_by_little_more_than_the_noise(
        self, true: Calibration, seed: int
    ) -> None:
        """In a run of a real model, where operators cannot all be told apart."""
        fitted, held_out = halves(measured(true, seed=seed))
        found = fit(fitted).calibration
        errors = relative_errors(held_out.calibrated(found), held_out.seconds)
        assert np.median(np.abs(errors)) < 1.25 * HALF_WITHIN
        assert abs(errors.mean()) < 0.02

    def test_is_not_drawn_away_by_outliers(self) -> None:
        """Every twentieth batch takes ten times as long."""
        clean = measured(TRUE, VARIED)
        slow = np.where(np.arange(len(clean)) % 20 == 7, 10.0, 1.0)
        found = fit(replace(clean, seconds=clean.seconds * slow)).calibration
        without = fit(clean).calibration
        for name in CLASSES:
            assert getattr(found.factors, name) == pytest.approx(getattr(without.factors, name), rel=0.03)

    @pytest.mark.parametrize("absent", CLASSES)
    def test_a_class_that_is_absent_keeps_its_factor(self, absent: str) -> None:
        none = {**VARIED.predicted, absent: np.zeros(len(VARIED))}
        found = fit(measured(TRUE, replace(VARIED, predicted=none)))
        assert found.absent == (absent,)
        assert getattr(found.calibration.factors, absent) == 1
        for name in set(CLASSES) - {absent}:
            assert getattr(found.calibration.factors, name) == pytest.approx(
                getattr(TRUE.factors, name), rel=0.05
            )

    @pytest.mark.parametrize("name", CLASSES)
    def test_nor_does_one_of_which_there_is_next_to_nothing(self, name: str) -> None:
        little = {**VARIED.predicted, name: VARIED.predicted[name] * 1e-3}
        found = fit(measured(TRUE, replace(VARIED, predicted=little)))
        assert found.small == (name,)
        assert getattr(found.calibration.factors, name) == 1

    def test_classes_that_go_together_share_a_factor(self) -> None:
        """Of attention there is a quarter of what there is of matrix products, in every batch."""
        alike = {**VARIED.predicted, "attention": VARIED.predicted["matmul"] / 4}
        found = fit(measured(TRUE, replace(VARIED, predicted=alike)))
        assert found.shared == (("matmul", "attention"),)
        factors = found.calibration.factors
        assert factors.matmul == factors.attention
        assert factors.matmul == pytest.approx((1.4 + 2.5 / 4) / 1.25, rel=0.03)

    def test_what_is_the_same_in_every_batch_is_not_told_from_host_time(self) -> None:
        ones = np.full(len(VARIED), 0.02)
        found = fit(measured(TRUE, replace(VARIED, predicted={**VARIED.predicted, "matmul": ones})))
        assert "matmul" in found.unsure
        assert found.calibration.factors.matmul == pytest.approx(1, abs=0.35)

    def test_without_images_their_host_time_is_not_known(self) -> None:
        none = replace(VARIED, images=np.zeros(len(VARIED)))
        found = fit(measured(TRUE, none))
        assert not found.images
        assert found.calibration.image == 0

    def test_no_coefficient_is_negative_where_predictions_are_too_long(self) -> None:
        short = replace(VARIED, seconds=0.2 * VARIED.uncalibrated())
        found = fit(short).calibration
        assert min(found.iteration, found.sequence, found.image) >= 0
        assert all(getattr(found.factors, name) > 0 for name in CLASSES)


def served(
    by: Calibration = TRUE, run: Run = RUN, *, noise: float = NOISE, deployment: str = DEPLOYMENT
) -> Run:
    """A run as if it had been measured."""
    times = measured(by, observed(run, deployment), noise=noise).seconds
    (lane,) = run.lanes
    lanes = [LaneLog(0, 0, {**lane.columns, "first": times})]
    return replace(run, lanes=lanes, producer="serve", deployment_yaml=deployment)


@pytest.fixture
def deployment(tmp_path: Path) -> Path:
    path = tmp_path / "deployment.yaml"
    path.write_text(DEPLOYMENT)
    return path


def written(run: Run, folder: Path, **how: Any) -> Path:
    write_run(run, folder, **how)
    return folder


class TestCalibrate:
    def test_reports_the_error_on_batches_that_it_has_not_seen(
        self, tmp_path: Path, deployment: Path
    ) -> None:
        found = calibrate(written(served(), tmp_path / "run"), deployment)
        whole = found.errors[0]
        assert whole.kind == ALL
        assert whole.batches + found.batches == len(RUN.lanes[0])
        assert whole.before.median > 0.3
        assert whole.before.mean < -0.3
        assert whole.after.median < 1.25 * HALF_WITHIN
        assert abs(whole.after.mean) < 0.01
        assert abs(whole.after.total) < 0.01
        assert sum(error.batches for error in found.errors[1:]) == whole.batches

    def test_undoes_what_a_calibrated_simulation_has_done(self, tmp_path: Path, deployment: Path) -> None:
        """Simulated with a calibration, and taken for measured: the times come from elsewhere."""
        file = tmp_path / "true.yaml"
        file.write_text(TRUE.to_yaml())
        run = replace(simulated(f"{DEPLOYMENT}calibration: {file}\n"), producer="serve")
        found = calibrate(written(run, tmp_path / "run"), deployment)
        assert found.errors[0].after.median < 1e-3
        assert found.calibration.iteration == pytest.approx(TRUE.iteration, rel=0.05)
        assert found.calibration.sequence == pytest.approx(TRUE.sequence, rel=0.05)
        assert found.calibration.image == pytest.approx(TRUE.image, rel=0.05)
        assert found.calibration.factors.matmul == pytest.approx(1.4, rel=0.02)
        assert found.calibration.factors.attention == pytest.approx(2.5, rel=0.02)

    def test_a_calibration_that_the_deployment_names_is_left_aside(
        self, tmp_path: Path, deployment: Path
    ) -> None:
        run = written(served(), tmp_path / "run")
        fresh = calibrate(run, deployment)
        write_calibration(fresh.calibration, tmp_path / "calibration.yaml")
        deployment.write_text(f"{DEPLOYMENT}calibration: {tmp_path / 'calibration.yaml'}\n")
        again = calibrate(run, deployment)
        assert again.calibration.factors == fresh.calibration.factors
        assert again.errors == fresh.errors

    def test_the_host_time_before_is_that_of_the_device(self) -> None:
        (plan,) = plan_pools(declared())
        host = host_time(plan.cost)
        assert host.iteration == pytest.approx(plan.device.iteration_overhead)
        assert host.sequence == 0

    def test_says_where_it_comes_from(self, tmp_path: Path, deployment: Path) -> None:
        said = calibrate(written(served(), tmp_path / "run"), deployment).calibration.provenance
        assert said["run"] == str(tmp_path / "run")
        assert said["model"] == "Qwen2.5-VL-7B"
        assert said["device"] == "A100-80GB"
        assert "fitted" in said["batches"] and "held out" in said["batches"]
        assert said["error_before"].startswith("median")
        assert "front_end" in said["notes"]

    def test_says_so_where_a_few_batches_take_far_longer_than_their_likes(
        self, tmp_path: Path, deployment: Path
    ) -> None:
        """Which no prediction knows of, but every latency."""
        run = served()
        (lane,) = run.lanes
        first = lane["first"] * np.where(np.arange(len(lane)) % 11 == 0, 4.0, 1.0)
        stalled = replace(run, lanes=[LaneLog(0, 0, {**lane.columns, "first": first})])
        found = calibrate(written(stalled, tmp_path / "run"), deployment)
        assert found.errors[0].after.median < 1.5 * HALF_WITHIN
        assert found.errors[0].after.total < -0.1
        assert any("took far longer than their likes" in note for note in found.notes)
        calm = calibrate(written(run, tmp_path / "run"), deployment)
        assert not any("their likes" in note for note in calm.notes)

    def test_batches_that_are_predicted_too_long_are_no_stragglers(self) -> None:
        """However far the time in all is below the mean of the errors, which short batches make."""
        before, after = Errors(0.5, -0.5, -0.5), Errors(0.2, 0.4, 0.01)
        notes = calibrate_module._notes(fit(VARIED), [Judged(ALL, 100, before, after)], None)
        assert not any("their likes" in note for note in notes)

    def test_one_device_has_no_collectives(self, tmp_path: Path, deployment: Path) -> None:
        alone = DEPLOYMENT.replace("tensor: 2", "tensor: 1")
        deployment.write_text(alone)
        run = served(run=simulated(alone), deployment=alone)
        found = calibrate(written(run, tmp_path / "run"), deployment)
        assert found.calibration.factors.network == 1
        assert any("network: not in the run" in note for note in found.notes)


class TestBadInput:
    def refused(self, run: Path, deployment: Path) -> str:
        with pytest.raises(SpecError) as caught:
            calibrate(run, deployment)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_a_prediction(self, tmp_path: Path, deployment: Path) -> None:
        said = self.refused(written(RUN, tmp_path / "run"), deployment)
        assert said.startswith(f"{tmp_path / 'run'}: is a prediction")

    def test_a_bench(self, tmp_path: Path, deployment: Path) -> None:
        run = bench_of(served(), offset=0, front=0, image=0, answer=0)
        assert "is of a client, which sees no batches" in self.refused(
            written(run, tmp_path / "run"), deployment
        )

    def test_no_batches(self, tmp_path: Path, deployment: Path) -> None:
        said = self.refused(written(served(), tmp_path / "run", batches="off"), deployment)
        assert "has no batches" in said

    def test_too_few_batches(self, tmp_path: Path, deployment: Path) -> None:
        (lane,) = served().lanes
        few = LaneLog(0, 0, {name: column[:20] for name, column in lane.columns.items()})
        run = replace(served(), lanes=[few], spans=build.spans())
        said = self.refused(written(run, tmp_path / "run"), deployment)
        assert "has 20 batches, and 64 are the fewest" in said

    @pytest.mark.parametrize(
        ("old", "new", "says"),
        [
            ("Qwen2.5-VL-7B", "Qwen2.5-VL-3B", "model: is Qwen2.5-VL-3B, and"),
            ("  all:", "  others:", "pools: there is no all, which"),
            ("tensor: 2", "tensor: 4", "pools.all.parallel: is not as in"),
            ("A100-80GB", "H100", "pools.all.device: is not as in"),
        ],
    )
    def test_another_deployment(
        self, tmp_path: Path, deployment: Path, old: str, new: str, says: str
    ) -> None:
        run = written(served(), tmp_path / "run")
        deployment.write_text(DEPLOYMENT.replace(old, new))
        said = self.refused(run, deployment)
        assert said.startswith(f"{deployment}: {says}")
        assert said.endswith("give the deployment that was served")

    def test_random_weights_have_the_same_shapes(self, tmp_path: Path, deployment: Path) -> None:
        run = served(deployment=DEPLOYMENT.replace("Qwen", "random:Qwen"))
        assert calibrate(written(run, tmp_path / "run"), deployment).errors


def bench_of(server: Run, *, offset: float, front: float, image: float, answer: float, seed: int = 0) -> Run:
    """What a client of the server saw, whose clock began `offset` seconds later; in another order."""
    draw = np.random.default_rng(seed)
    size = len(server)
    of = server.requests
    late = [draw.exponential(2e-4, size) for _ in range(3)]
    columns = {
        **of,
        "arrival": of["arrival"] - offset - front - image * of["images"] - late[0],
        "first_token": of["first_token"] - offset + answer + late[1],
        "end": of["end"] - offset + answer + late[2],
    }
    order = draw.permutation(size)
    columns = {name: column[order] for name, column in columns.items()} | {"id": np.arange(size)}
    return replace(
        server,
        requests=columns,
        lanes=[],
        instances=[],
        spans=build.spans(),
        transfers=None,
        producer="bench",
    )


def began(run: Run, at: float) -> Run:
    """The record with the Unix time at which its clock began."""
    return replace(run, meta={**run.meta, BEGAN: at})


class TestDelays:
    @given(
        offset=st.floats(-5, 100),
        front=st.floats(0, 0.05),
        image=st.floats(0, 0.05),
        answer=st.floats(0, 0.05),
        seed=st.integers(0, 9),
    )
    @settings(max_examples=40)
    def test_lie_between_the_two_clocks(
        self, offset: float, front: float, image: float, answer: float, seed: int
    ) -> None:
        """Way in and way out together, since the clocks do not tell them apart, and what an image adds."""
        client = bench_of(RUN, offset=offset, front=front, image=image, answer=answer, seed=seed)
        found = delays(RUN, {Path("bench"): client})
        assert found.requests == len(RUN)
        assert found.front_end + found.answer == pytest.approx(front + answer, abs=1e-3)
        assert found.front_end_image == pytest.approx(image, abs=1e-3)
        assert found.front_end == pytest.approx(found.answer, abs=1e-3)
        assert not found.shared

    def test_are_each_known_where_both_records_say_when_their_clocks_began(self) -> None:
        client = bench_of(RUN, offset=7, front=0.03, image=0.01, answer=0.002)
        found = delays(began(RUN, 1.79e9), {Path("bench"): began(client, 1.79e9 + 7)})
        assert found.shared and found.requests == len(RUN)
        assert found.front_end == pytest.approx(0.03, abs=1e-3)
        assert found.front_end_image == pytest.approx(0.01, abs=1e-3)
        assert found.answer == pytest.approx(0.002, abs=1e-3)

    @pytest.mark.parametrize("wrong", [0.05, -0.05, 3600.0])
    def test_clocks_by_which_requests_come_before_they_are_sent_are_left_aside(self, wrong: float) -> None:
        client = bench_of(RUN, offset=7, front=0.01, image=0.0, answer=0.01)
        found = delays(began(RUN, 1.79e9), {Path("bench"): began(client, 1.79e9 + 7 + wrong)})
        assert not found.shared
        assert found.front_end == pytest.approx(0.01, abs=1e-3)

    def test_every_request_finds_itself(self) -> None:
        client = bench_of(RUN, offset=7, front=0.01, image=0.01, answer=0.01)
        pairs = paired(RUN, client)
        assert pairs is not None
        ours, theirs = pairs
        assert (
            client.requests["prompt_tokens"][ours].tolist() == RUN.requests["prompt_tokens"][theirs].tolist()
        )
        assert sorted(theirs.tolist()) == list(range(len(RUN)))

    def test_of_a_server_that_had_other_requests_too(self) -> None:
        """A bench of the last third is found among all."""
        client = bench_of(RUN, offset=3, front=0.01, image=0.0, answer=0.01)
        kept = np.flatnonzero(client.requests["arrival"] > np.quantile(client.requests["arrival"], 2 / 3))
        part = {name: column[kept] for name, column in client.requests.items()}
        found = delays(RUN, {Path("bench"): replace(client, requests=part | {"id": np.arange(len(kept))})})
        assert found.requests == len(kept)
        assert found.front_end + found.answer == pytest.approx(0.02, abs=1e-3)

    def test_a_bench_of_another_server_is_refused(self) -> None:
        other = simulated(seed=5)
        client = bench_of(other, offset=0, front=0.01, image=0, answer=0.01)
        with pytest.raises(SpecError, match="bench: its requests are not found in the server's record"):
            delays(RUN, {Path("bench"): client})

    def test_without_images_nothing_is_said_of_them(self) -> None:
        run = simulated(images=None)
        client = bench_of(run, offset=0, front=0.01, image=0, answer=0.01)
        assert delays(run, {Path("bench"): client}).front_end_image is None

    def test_of_a_validation_the_records_of_its_clients_count(self, tmp_path: Path, deployment: Path) -> None:
        server = served()
        (tmp_path / "out").mkdir()
        (tmp_path / "out/validation.json").write_text("{}")
        written(server, tmp_path / "out/server")
        for place in ("measured-1", "load-0.5/measured-1"):
            client = bench_of(server, offset=1, front=0.01, image=0.002, answer=0.01)
            written(client, tmp_path / "out" / place)
        found = calibrate(tmp_path / "out", deployment)
        assert found.delays is not None and found.delays.records == 2
        assert found.calibration.front_end + found.calibration.answer == pytest.approx(0.02, abs=1e-3)
        assert found.calibration.front_end_image == pytest.approx(0.002, abs=1e-3)
        assert [note for note in found.notes if "front_end" in note] == [
            "front_end, answer: the clocks of client and server are not known to agree; each is half"
        ]


class TestLinks:
    """One instance of each of two pools, 10 GB/s between them after 1 ms; a transfer has 1 GB."""

    split = (
        "model: Llama-3-8B\n"
        "pools:\n"
        "  prefill: {phases: [prefill], device: A100-80GB, scheduler: {policy: sarathi}}\n"
        "  decode: {phases: [decode], device: A100-80GB, scheduler: {policy: sarathi}}\n"
        "links: [{from: prefill, to: decode, bandwidth: 10 GB/s, latency: 1 ms}]\n"
    )

    def share(self, *times: tuple[float, float]) -> tuple[float, int] | None:
        rows = [(number, "kv", 0, 1, start, end, 1e9) for number, (start, end) in enumerate(times)]
        infos = [replace(build.INSTANCE, pool="prefill"), replace(build.INSTANCE, id=1, pool="decode")]
        run = build.run(instances=infos, transfers=build.transfers(*rows))
        plans = {plan.name: plan for plan in plan_pools(declared(self.split))}
        return link_share(run, declared(self.split), plans)

    def test_the_share_is_of_the_declared_bandwidth(self) -> None:
        found = self.share(*((number, number + 0.001 + 0.125) for number in range(6)))
        assert found == (pytest.approx(0.8), 6)

    def test_transfers_that_meet_do_not_count(self) -> None:
        alone = [(number, number + 0.001 + 0.125) for number in range(6)]
        found = self.share(*alone, (10.0, 13.0), (10.5, 11.0), (12.0, 12.5))
        assert found == (pytest.approx(0.8), 6)

    def test_a_few_tell_nothing(self) -> None:
        assert self.share((0.0, 1.0), (2.0, 3.0)) is None


class TestReport:
    def printed(self, found: Calibrated) -> str:
        console = Console(width=100, record=True, file=StringIO())
        print_calibration(found, console)
        return console.export_text()

    def test_shows_every_coefficient_and_the_error(self, tmp_path: Path, deployment: Path) -> None:
        text = self.printed(calibrate(written(served(), tmp_path / "run"), deployment))
        for name in (*Calibration.model_fields, *CLASSES):
            assert name in ("factors", "provenance") or name in text
        assert ALL in text

    def test_the_file_is_what_a_deployment_can_name(
        self, tmp_path: Path, deployment: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run, out = written(served(), tmp_path / "run"), tmp_path / "new/calibration.yaml"
        calibrate_and_report(run, deployment, out=out)
        assert str(out) in capsys.readouterr().out.replace("\n", "")
        assert [path.name for path in out.parent.iterdir()] == ["calibration.yaml"]
        assert Calibration.load(out).factors != Factors()
        simulated(f"{DEPLOYMENT}calibration: {out}\n", requests=3)
        calibrate_and_report(run, deployment, out=out)

    def test_standard_output_is_json_alone_if_that_is_asked_for(
        self, tmp_path: Path, deployment: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run, out = written(served(), tmp_path / "run"), tmp_path / "calibration.yaml"
        calibrate_and_report(run, deployment, out=out, json="-")
        printed = json.loads(capsys.readouterr().out)
        assert Calibration.parse(printed["calibration"]) == Calibration.load(out)
        assert printed["errors"][0]["kind"] == ALL

    def test_no_other_file_is_overwritten(self, tmp_path: Path, deployment: Path) -> None:
        with pytest.raises(SpecError, match="holds something that is no calibration"):
            calibrate_and_report(tmp_path / "run", deployment, out=deployment)
        assert deployment.read_text() == DEPLOYMENT

    def test_a_place_that_cannot_be_written_is_one_line(self, tmp_path: Path, deployment: Path) -> None:
        out = deployment / "calibration.yaml"
        with pytest.raises(SpecError, match="--out: cannot be written"):
            write_calibration(Calibration(), out)


def test_the_document_describes_every_coefficient_and_says_what_the_code_does() -> None:
    text = (Path(__file__).parents[2] / "docs/calibration.md").read_text(encoding="utf-8")
    single = [name for name in Calibration.model_fields if name not in ("factors", "provenance")]
    for name in (*single, *(f"factors.{name}" for name in CLASSES)):
        assert f"| `{name}` |" in text
    assert f"fewer than {calibrate_module._FEWEST}" in text
    assert f"beyond {fit_module._HUBER} standard deviations" in text
    assert f"the prior's standard deviation is {fit_module._UNSURE_SPREAD}" in text
