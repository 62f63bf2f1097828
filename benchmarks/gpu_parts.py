"""The parts of `make gpu`, on a GPU or rehearsed on the CPU: what each runs and needs, and for how long.

They come in the order of their worth, and together fit into eight minutes: whoever is cut off has the first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PLAN = ("numpy", "pyarrow", "pydantic", "yaml", "scipy")
ENGINE = (*PLAN, "transformers", "msgspec", "psutil")
PROFILE = (*ENGINE, "zmq", "typer", "rich")
SERVE = (*PROFILE, "fastapi", "uvicorn", "httptools", "uvloop", "jinja2", "prometheus_client", "PIL", "httpx")
VALIDATE = (*SERVE, "aiohttp", "tokenizers")
TESTS = (*ENGINE, "zmq", "pytest", "hypothesis")
ON_DEVICE = ("varlen", "graphs", "bf16", "reference")
"""Of `tests/engine`: those that run on the device, and so come first."""
AROUND = 45
"""Seconds that a profile takes beside its `--minutes`: libraries are loaded, copies and messages measured."""


@dataclass(frozen=True)
class Part:
    """A command of Python."""

    name: str
    arguments: tuple[str, ...]
    seconds: int
    """After which it is cut off."""
    needs: tuple[str, ...]
    """Packages."""
    least: int = 30
    """Seconds below which it is not worth a start."""
    weight: int = 0
    """Above 0: it takes `--minutes`, and shares those that there are with others by their weights."""
    environment: Mapping[str, str] = field(default_factory=dict)
    profile: Path | None = None
    """That comes of it, with a hidden journal beside it for as long as not all is measured."""

    @property
    def is_done(self) -> bool:
        """Whether an earlier call has measured all of it: to begin anew would put less in its place."""
        if self.profile is None or not self.profile.is_file():
            return False
        return not self.profile.with_name(f".{self.profile.stem}.partial.jsonl").exists()


@dataclass(frozen=True)
class Place:
    """What is run on, and how large it is.

    In all commands models are names of the catalogue, or files.
    """

    device: str
    """Its name in the catalogue."""
    tests: tuple[str, ...]
    """Files, and options of pytest."""
    decoded: tuple[str, ...]
    """Models whose decodes and prompts are timed."""
    decode: tuple[str, ...]
    """Options of `decode.py`."""
    profiled: Mapping[str, str]
    """Model -> degrees of tensor parallelism that divide its heads."""
    profile: tuple[str, ...]
    """Options of `triptych profile`."""
    validated: tuple[str, ...]
    """Models."""
    pool: Mapping[str, Any]
    """Fields of the pool that is validated."""
    workload: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The device as torch names it."""
        return "cpu" if self.device == "CPU" else "cuda"


def gpu(device: str) -> Place:
    """A GPU of that name; figures are worth keeping."""
    tests = [f"tests/engine/test_{name}.py" for name in ON_DEVICE]
    workers = ["-n", "8"] if find_spec("xdist") else []
    return Place(
        device,
        tests=(*tests, "tests/engine", *workers),
        decoded=("OPT-125M", "Llama-3-8B"),
        decode=("--prompts", "512,4096", "--generate"),
        profiled={"Qwen2.5-VL-7B": "1", "OPT-125M": "1"},
        profile=(),
        validated=("OPT-125M",),
        pool={"scheduler": {"policy": "unified", "max_batch": 128, "max_tokens": 8192}, "kv_blocks": 12_000},
        workload={
            "requests": 200,
            "arrivals": {"kind": "poisson", "rate": 8},
            "prompt": {"kind": "uniform", "low": 64, "high": 960},
            "output": {"kind": "uniform", "low": 16, "high": 128},
        },
    )


def rehearsal(work: Path) -> Place:
    """The CPU and a model of two layers: every command runs as on a GPU, and ends within seconds.

    Args:
        work: folder for the model's configuration.
    """
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 512}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    model = work / "two-layers.json"
    model.write_text(json.dumps({"model_type": "llama", **shape, **heads}) + "\n", encoding="utf-8")
    limits = ("--max-tokens", "64", "--max-batch", "4", "--max-context", "64", "--repeats", "2", "--quick")
    return Place(
        "CPU",
        tests=("tests/engine/test_varlen.py", "-k", "kernel"),
        decoded=(str(model),),
        decode=("--batches", "1,2", "--context", "32", "--repeats", "2", "--prompts", "32", "--generate"),
        profiled={str(model): "1"},
        profile=limits,
        validated=(str(model),),
        pool={"scheduler": {"policy": "unified", "max_batch": 4, "max_tokens": 64}, "kv_blocks": 64},
        workload={
            "requests": 8,
            "arrivals": {"kind": "poisson", "rate": 8},
            "prompt": {"kind": "uniform", "low": 4, "high": 30},
            "output": {"kind": "uniform", "low": 2, "high": 6},
        },
    )


def parts(place: Place, work: Path) -> list[Part]:
    """All, in the order of their worth; they write to `work`. The seconds of all are eight minutes."""
    pytest = ("-m", "pytest", *place.tests, "-vv", "--tb=short", "-p", "no:cacheprovider", "--durations=5")
    # Tests hold float32 to the CPU's: no products of fewer bits in its place. Each worker has one thread.
    exact = {"TRIPTYCH_TEST_DEVICE": place.kind, "NVIDIA_TF32_OVERRIDE": "0", "OMP_NUM_THREADS": "1"}
    found = [Part("engine_tests", pytest, 100, TESTS, environment=exact)]
    device = ("--device", place.device)
    for model in place.decoded:
        file = str(work / f"decode_{name(model)}.json")
        command = ("benchmarks/decode.py", *device, "--model", model, *place.decode, "--json", file)
        found.append(Part(f"decode_{name(model)}", command, 45, ENGINE))
    for model, degrees in place.profiled.items():
        command = ("-m", "triptych", "profile", "--model", model, "--tp", degrees, "--device", place.kind)
        command += place.profile
        command += ("--out", str(work / "profiles"))
        weight = len(degrees.split(","))
        result = work / "profiles" / f"{place.kind}-{name(model).lower()}-bf16.parquet"
        found.append(
            Part(f"profile_{name(model)}", command, 140, PROFILE, AROUND + 10, weight, profile=result)
        )
    for model in place.validated:
        command = (
            "-m",
            "triptych",
            "validate",
            *declare(place, model, work),
            "--repeats",
            "1",
            "--no-measure",
        )
        command += ("--load", "0.5,0.85", "--out", str(work / "validate" / name(model)))
        found.append(Part(f"validate_{name(model)}", command, 100, VALIDATE, least=45))
    return found


def name(model: str) -> str:
    """Of a model in names of parts and files."""
    return Path(model).stem if model.endswith(".json") else model


def declare(place: Place, model: str, work: Path) -> list[str]:
    """Writes a deployment and a workload, and names their files: JSON, which is YAML too."""
    pool = {"phases": ["prefill", "decode"], "device": place.device, **place.pool}
    deployment = {"model": f"random:{model}", "pools": {"all": pool}}
    written = []
    for kind, content in {"deployment": deployment, "workload": place.workload}.items():
        file = work / f"{kind}-{name(model)}.yaml"
        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        written.append(str(file))
    return written
