"""A deployment that cannot be served is refused in one line, which names the user's file."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
from tests.engine import tiny

from triptych import catalog
from triptych.engine import servable
from triptych.engine.server.main import serve
from triptych.engine.server.server import Settings
from triptych.spec.base import SpecError
from triptych.spec.yaml import dump_yaml

from .command import ROOT, declare
from .serving import make_server


def deployment(folder: Path, pools: dict[str, Any], model: str = "random:opt-125m") -> Path:
    file = folder / "deployment.yaml"
    file.write_text(dump_yaml({"model": model, "pools": pools}), encoding="utf-8")
    return file


def pool(*phases: str, **fields: Any) -> dict[str, Any]:
    usual = {"phases": list(phases), "device": "CPU", "scheduler": {"policy": "unified"}}
    return usual | fields


def whole(**fields: Any) -> dict[str, Any]:
    return {"all": pool("prefill", "decode", **fields)}


REFUSED = [
    ({"p": pool("prefill"), "d": pool("decode")}, "pools: 2 pools cannot be served yet; declare one pool"),
    (whole(instances=2), "pools.all.instances: 2 instances cannot be served yet; use instances: 1"),
    (
        whole(scheduler={"policy": "unified", "lookahead": True}),
        "pools.all.scheduler.lookahead: lookahead cannot be served yet: the engine forms a batch when the "
        "last has ended; remove it",
    ),
    (whole(parallel={"tensor": 2}), "pools.all.parallel: 2 devices cannot be served yet; leave parallel out"),
    (whole(precision={"kv": "fp8"}), "pools.all.precision: weights, kv and compute differ"),
]


@pytest.mark.parametrize(("pools", "says"), REFUSED)
def test_what_takes_more_than_one_process_is_refused_by_the_front_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pools: dict[str, Any], says: str
) -> None:
    monkeypatch.setattr("triptych.engine.server.main.Server", None)  # nothing is started
    file = deployment(tmp_path, pools)
    with pytest.raises(SpecError) as caught:
        serve(file)
    assert str(caught.value).startswith(f"{file}: {says}")


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("opt-125m", "opt-125m is no checkpoint folder; name one, or random:opt-125m for random weights"),
        ("/none", "there is no folder /none; name that of a checkpoint, or random:NAME for random weights"),
    ],
)
def test_so_is_a_model_without_weights(tmp_path: Path, model: str, says: str) -> None:
    file = deployment(tmp_path, whole(), model)
    with pytest.raises(SpecError) as caught:
        serve(file)
    assert str(caught.value) == f"{file}: model: {says}"


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a CUDA device, whatever this one has."""

    def missing(name: str) -> NoReturn:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(servable, "_CUDA_SIGNS", ())
    monkeypatch.setattr(servable.ctypes, "CDLL", missing)
    monkeypatch.setenv("PATH", "")


@pytest.mark.usefixtures("no_cuda")
def test_so_is_a_device_that_is_not_here(tmp_path: Path) -> None:
    file = deployment(tmp_path, whole(device="H100"))
    with pytest.raises(SpecError) as caught:
        serve(file)
    assert str(caught.value).startswith(f"{file}: pools.all.device: H100 is not here: ")
    assert str(caught.value).endswith("; serve with device: CPU")


@pytest.mark.usefixtures("no_cuda")
def test_any_sign_of_cuda_leaves_the_word_to_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servable, "_CUDA_SIGNS", ("dev/nvidia*",))
    assert not servable.cuda_may_be_here(tmp_path)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidia3").touch()  # a container with the fourth device of its machine
    assert servable.cuda_may_be_here(tmp_path)
    (tmp_path / "dev" / "nvidia3").unlink()
    tool = tmp_path / "nvidia-smi"
    tool.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert servable.cuda_may_be_here(tmp_path)
    tool.unlink()
    monkeypatch.setattr(servable.ctypes, "CDLL", str)  # the driver's library alone
    assert servable.cuda_may_be_here(tmp_path)


def test_that_takes_no_torch(tmp_path: Path) -> None:
    file = deployment(tmp_path, whole(instances=2))
    program = (
        "import sys; from pathlib import Path; from triptych.engine.server.main import serve\n"
        "from triptych.spec.base import SpecError\n"
        "try: serve(Path(sys.argv[1]))\n"
        "except SpecError: sys.exit(int('torch' in sys.modules) or 7)"
    )
    command = [sys.executable, "-c", program, str(file)]
    assert subprocess.call(command, cwd=ROOT, env={"PYTHONPATH": "src"}) == 7


def test_what_the_worker_refuses_is_one_line_that_names_the_users_file(tmp_path: Path) -> None:
    vast = catalog.device("CPU").model_copy(update={"memory": 1e18})  # so that planning allows the blocks
    (tmp_path / "vast.yaml").write_text(vast.to_yaml(), encoding="utf-8")
    file = declare(tiny.config_file("qwen3", tmp_path), tmp_path, device="vast.yaml")
    command = [sys.executable, "-m", "triptych", "serve", str(file), "--port", "0"]
    done = subprocess.run(
        [*command, "--set", "pools.all.kv_blocks=900000000"],
        cwd=ROOT, env={"PYTHONPATH": "src", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"triptych: {file}: pools.all: KV and image embeddings take ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("worker", [("--refuse",), ()])
def test_a_fault_that_both_processes_find_is_told_once(tmp_path: Path, worker: tuple[str, ...]) -> None:
    """By the worker if it finds it too, which prints it and ends with 2, else by the front end."""
    server = make_server(tmp_path, Settings(port=0), worker)

    def fail() -> NoReturn:
        raise SpecError("model", "no such model")

    server._load = fail
    with asyncio.Runner(loop_factory=server.loop_factory) as runner:
        if worker:
            assert runner.run(server.run()) == 2
        else:
            with pytest.raises(SpecError, match="no such model"):
                runner.run(server.run())
