"""How long batches took beside what is predicted for the same ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.record import build

from triptych import simulate
from triptych.plan import plan_pools
from triptych.record import LaneLog, Run
from triptych.spec.deployment import Deployment
from triptych.spec.workload import WorkloadSpec
from triptych.spec.yaml import parse_yaml
from triptych.validation.calibrate import calibrated
from triptych.validation.during import during
from triptych.validation.speed import speed_notes

DEPLOYMENT = Deployment.parse(
    parse_yaml(
        """
        model: Qwen2.5-VL-7B
        pools:
          all:
            phases: [encode, prefill, decode]
            device: A100-80GB
            scheduler: {policy: unified, max_batch: 64, max_tokens: 2048}
        """
    )
)
WORKLOAD = {
    "requests": 20,
    "arrivals": {"kind": "poisson", "rate": 6},
    "prompt": {"kind": "uniform", "low": 100, "high": 1000},
    "output": {"kind": "uniform", "low": 10, "high": 30},
    "images": {"share": 0.4, "sizes": [{"width": 448, "height": 448}]},
}
BEGAN = 1_000_000.0


def served(longer: float, with_images: float = 1.0) -> Run:
    """A server's record in which every batch took so many times as long as predicted."""
    run = simulate(DEPLOYMENT, WorkloadSpec.parse(WORKLOAD), jump=False)
    lanes = []
    for lane in run.lanes:
        factor = longer * np.where(lane["images"] > 0, with_images, 1.0)
        lanes.append(LaneLog(lane.instance, lane.lane, {**lane.columns, "first": lane["first"] * factor}))
    return replace(run, lanes=lanes, meta={"began_at": BEGAN})


def notes(server: Run, *clients: Run) -> list[str]:
    plans = {plan.name: plan for plan in plan_pools(DEPLOYMENT)}
    return list(speed_notes(during(server, clients), plans))


def client(begin: float = 0.0, seconds: float = 1e4) -> Run:
    return replace(build.run([]), meta={"began_at": BEGAN + begin}, horizon=seconds)


def test_batches_that_take_as_long_as_predicted_are_not_mentioned() -> None:
    assert notes(served(1.02), client()) == []


@pytest.mark.parametrize(
    ("longer", "said"), [(1.25, "took 25% more time than"), (0.8, "took 20% less time than")]
)
def test_others_are_with_how_much(longer: float, said: str) -> None:
    (note,) = notes(served(longer), client())
    assert said in note


def test_each_kind_of_batch_is_told_apart() -> None:
    (note,) = notes(served(1.0, with_images=2.0), client())
    assert "(+100% with images, +0% with prompts, +0% decodes alone)" in note


def test_only_batches_while_clients_measured_count() -> None:
    server = served(1.25)
    assert notes(server, client(begin=1e5)) == []
    assert notes(server, client(begin=1e5), client(seconds=0.5)) != []


def test_records_without_a_clock_say_nothing() -> None:
    assert notes(replace(served(2.0), meta={}), client()) == []
    assert notes(served(2.0), replace(client(), meta={})) == []


def test_a_calibration_to_what_one_client_saw_knows_nothing_of_the_rest() -> None:
    """Batches after the second one began are half as fast again; the calibration is to those before."""
    server = served(1.0)
    lane = server.lanes[0]
    half = float(np.median(lane["start"]))
    slower = np.where(lane["start"] >= half, 1.5, 1.0)
    columns = {**lane.columns, "first": lane["first"] * slower}
    server = replace(server, lanes=[LaneLog(lane.instance, lane.lane, columns)])
    found = [
        calibrated(during(server, [one]), Path("server"), DEPLOYMENT, Path("deployment.yaml"), None)
        for one in (client(seconds=half), client(begin=half))
    ]
    factors = [each.calibration.factors.matmul for each in found]
    assert factors == [pytest.approx(1.0, abs=0.05), pytest.approx(1.5, abs=0.1)]
