"""A real server with a tiny model: what it did is laid beside what is predicted for the same requests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from triptych.record import read_run
from triptych.spec.workload import WorkloadSpec
from triptych.validation.api import validate
from triptych.validation.calibration_delays import delays
from triptych.validation.result import Validation

pytest.importorskip("torch")

from tests.engine import tiny
from tests.server.command import declare

REQUESTS, REPEATS = 10, 2
WORKLOAD = {
    "requests": REQUESTS,
    "arrivals": {"kind": "poisson", "rate": 20},
    "prompt": {"kind": "uniform", "low": 20, "high": 60},
    "output": {"kind": "uniform", "low": 2, "high": 8},
    "images": {"share": 0.5, "sizes": [{"width": 112, "height": 84}]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("validation")


@pytest.fixture(scope="module")
def found(folder: Path) -> Validation:
    deployment = declare(tiny.config_file("qwen2_5_vl", folder), folder)
    workload = folder / "workload.yaml"
    workload.write_text(WorkloadSpec.parse(WORKLOAD).to_yaml(), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        return validate(deployment, workload, folder / "out", repeats=REPEATS)


def test_every_request_is_on_both_sides(found: Validation) -> None:
    (level,) = found.levels
    assert len(level.measured) == len(level.predicted) == REPEATS
    for measured, predicted in zip(level.measured, level.predicted, strict=True):
        assert measured.finished.all()
        assert predicted.finished.all()
        assert (predicted.requests["arrival"] == measured.requests["arrival"]).all()


def test_both_sides_count_the_same_tokens(found: Validation) -> None:
    """Those of text, of the chat template, and of images as the model makes them."""
    (level,) = found.levels
    for measured, predicted in zip(level.measured, level.predicted, strict=True):
        assert (measured.requests["images"] > 0).any()
        for name in ("prompt_tokens", "generated_tokens", "images"):
            assert (predicted.requests[name] == measured.requests[name]).all()


def test_every_figure_is_there(found: Validation) -> None:
    (level,) = found.levels
    assert all(row.error is not None and row.interval is not None for row in level.rows)
    assert found.within(np.inf)
    assert not found.within(0)


def test_the_servers_own_record_has_the_batches_of_all_repetitions(found: Validation, folder: Path) -> None:
    server = read_run(folder / "out" / "server")
    assert server.producer == "serve"
    (lane,) = server.lanes
    wanted = sum(int(run.requests["generated_tokens"].sum()) for run in found.levels[0].measured)
    assert lane["sampled"].sum() >= wanted
    assert lane["images"].sum() >= REPEATS * 1
    assert len(server) >= REPEATS * REQUESTS


def test_client_and_server_share_a_clock(found: Validation, folder: Path) -> None:
    client = folder / "out" / "measured-1"
    assert delays(read_run(folder / "out" / "server"), {client: read_run(client)}).shared
