"""A deployment names files beside it, and its copies name the same files wherever they are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from triptych import catalog, read_run, simulate, write_run
from triptych.plan import plan_pools, rooted
from triptych.spec.calibration import Calibration
from triptych.spec.deployment import Deployment
from triptych.spec.workload import WorkloadSpec

SHAPES = Path(catalog.__file__).parent / "data/models"
EXAMPLES = sorted((Path(__file__).parents[1] / "examples/deployments").glob("*.yaml"))
EXAMPLES.remove(next(path for path in EXAMPLES if path.name == "smollm2-cpu.yaml"))  # its model is not here
POOL = {
    "phases": ["prefill", "decode"],
    "device": "gpu.yaml",
    "node": "node.yaml",
    "scheduler": {"policy": "vllm"},
}
WORKLOAD = WorkloadSpec.parse(
    {
        "requests": 3,
        "arrivals": {"kind": "at-once"},
        "prompt": {"kind": "fixed", "tokens": 20},
        "output": {"kind": "fixed", "tokens": 3},
    }
)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A deployment in a folder with all that it names, which is not the working directory."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    folder = tmp_path / "declared"
    folder.mkdir()
    (folder / "mine.json").write_text((SHAPES / "opt-125m.json").read_text(), encoding="utf-8")
    (folder / "gpu.yaml").write_text(catalog.device("A10").to_yaml(), encoding="utf-8")
    (folder / "node.yaml").write_text(catalog.node("PCIE-A10").to_yaml(), encoding="utf-8")
    (folder / "fitted.yaml").write_text(Calibration(iteration=0.5).to_yaml(), encoding="utf-8")
    declared = {"model": "random:mine.json", "pools": {"all": POOL}, "calibration": "fitted.yaml"}
    (folder / "d.yaml").write_text(Deployment.parse(declared).to_yaml(), encoding="utf-8")
    return folder / "d.yaml"


def test_all_that_it_names_is_found_beside_it(file: Path) -> None:
    (plan,) = plan_pools(Deployment.load(file), file)
    assert plan.model.name == "mine"
    assert (plan.device.name, plan.node and plan.node.name) == ("A10", "PCIE-A10")
    assert plan.calibration is not None


def test_rooted_it_needs_no_folder(file: Path) -> None:
    found = rooted(Deployment.load(file), file)
    (pool,) = found.pools.values()
    assert found.model == f"random:{file.with_name('mine.json')}"
    assert (pool.device, pool.node) == (str(file.with_name("gpu.yaml")), str(file.with_name("node.yaml")))
    assert found.calibration == str(file.with_name("fitted.yaml"))
    assert rooted(found) == found
    assert plan_pools(found)


def test_names_stay_names_and_what_is_not_there_stays_as_it_was_written() -> None:
    pool = {"phases": ["prefill", "decode"], "device": "H100", "scheduler": {"policy": "vllm"}}
    for model, profile in (("Llama-3-8B", "cpu-opt-125m-fp32"), ("none/m.json", "none.parquet")):
        declared = Deployment.parse({"model": model, "pools": {"all": {**pool, "profile": profile}}})
        assert rooted(declared, "d.yaml") == declared


def test_the_copy_in_a_run_folder_can_be_run_again(file: Path, tmp_path: Path) -> None:
    run = simulate(file, WORKLOAD)
    write_run(run, tmp_path / "runs/first")
    again = simulate(tmp_path / "runs/first/deployment.yaml", WORKLOAD)
    assert (again.column("e2e") == read_run(tmp_path / "runs/first").column("e2e")).all()


def test_so_can_the_copy_of_a_workload_that_names_a_trace_from_where_it_was_run(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ["TIMESTAMP,ContextTokens,GeneratedTokens", "2023-11-16 18:15:46,20,3"]
    (tmp_path / "elsewhere/trace.csv").write_text("\n".join(rows), encoding="utf-8")
    workload = WorkloadSpec.parse({"trace": {"format": "azure", "path": "trace.csv"}})
    write_run(simulate(file, workload), tmp_path / "runs/first")
    monkeypatch.chdir(tmp_path)
    copy = WorkloadSpec.load(tmp_path / "runs/first/workload.yaml")
    assert copy.trace is not None
    assert copy.trace.path == str(tmp_path / "elsewhere/trace.csv")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_planned_from_any_folder(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert plan_pools(Deployment.load(path), path)
