"""All that wants a GPU, in one go: each part is bounded in time and leaves its output in a folder.

    python benchmarks/gpu.py --out DIR [--device H200] [--only PART,PART] [--seconds N]

Needs a Python with torch for CUDA. A part whose packages are not all there is left out, which is said.

engine_tests   tests/engine on the GPU
decode_*       decodes by plain passes and by CUDA graphs, beside the bandwidth's bound
engine_speed   benchmarks/engine.py: beside Hugging Face generate and continuous batching
profile_*      operators of a model at all degrees of tensor parallelism, to DIR/profiles
validate_*     `triptych validate` at half and at 85 % of capacity, on the profile just measured
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
PROFILED = {
    "OPT-125M": "1,2,4",
    "Llama-3-8B": "1,2,4,8",
    "Qwen2.5-VL-7B": "1,2,4",
    "Qwen2.5-VL-72B": "1,2,4,8",
    "Qwen3-30B-A3B": "1,2,4,8",
}
"""Degrees that divide the model's heads."""
VALIDATED = ("OPT-125M", "Llama-3-8B")
PLAN = ("numpy", "pyarrow", "pydantic", "yaml", "scipy")
ENGINE = (*PLAN, "transformers", "msgspec", "psutil")
PROFILE = (*ENGINE, "zmq", "typer", "rich")
SERVE = (*PROFILE, "fastapi", "uvicorn", "httptools", "uvloop", "jinja2", "prometheus_client", "PIL")
VALIDATE = (*SERVE, "aiohttp", "tokenizers", "matplotlib", "scienceplots", "sklearn")
BATCH, TOKENS, KV_BLOCKS = 128, 8192, 12_000
"""Of the deployments that are validated: requests at once, tokens of an iteration, KV blocks of 16 tokens."""


@dataclass(frozen=True)
class Part:
    """A command of Python."""

    name: str
    arguments: list[str]
    seconds: int
    """After which it is cut off."""
    needs: tuple[str, ...]
    """Packages."""


def main() -> int:
    """Returns 0 if all parts that could run passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="H200", help="name in the device catalogue of the one at hand")
    parser.add_argument("--minutes", type=float, default=8.0, help="of profiling, all models together")
    parser.add_argument("--seconds", type=float, help="for all parts; those that come too late are left out")
    parser.add_argument(
        "--only", metavar="PART,PART", default="", help="parts whose names begin so: engine,profile_Llama"
    )
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu: torch finds no CUDA device", file=sys.stderr)
        return 2
    out: Path = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    wanted = tuple(options.only.split(","))
    chosen = [part for part in parts(out, options.device, options.minutes) if part.name.startswith(wanted)]
    if not chosen:
        parser.error(f"the name of no part begins with {options.only}")
    about = {
        "device": torch.cuda.get_device_name(),
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }
    until = time.monotonic() + (options.seconds or float("inf"))
    results: dict[str, str] = {}
    for part in chosen:
        results[part.name] = result = run(part, out, until - time.monotonic())
        print(f"{part.name}: {result}", flush=True)
        report = {**about, "parts": results}  # after each, so that what was found outlives the rest
        (out / "about.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    bad = [result for result in results.values() if result != "passed" and not result.startswith("left out")]
    return int(bool(bad))


def parts(out: Path, device: str, minutes: float) -> list[Part]:
    """All, in order."""
    workers = ["-n", "4"] if find_spec("xdist") else []
    tests = ["-m", "pytest", "tests/engine", "-p", "no:cacheprovider", "--durations=5", *workers]
    speed = ["benchmarks/engine.py", "--device", device, "--chunk", "8192"]
    found = [Part("engine_tests", tests, 240, (*ENGINE, "pytest", "hypothesis"))]
    for model in VALIDATED:
        decode = ["benchmarks/decode.py", "--device", device, "--model", model]
        file = str(out / f"decode_{model}.json")
        found.append(Part(f"decode_{model}", [*decode, "--json", file], 150, ENGINE))
    found.append(Part("engine_speed", [*speed, "--json", str(out / "engine_speed.json")], 300, ENGINE))
    for model, degrees in PROFILED.items():
        each = minutes / len(PROFILED)
        command = ["-m", "triptych", "profile", "--model", model, "--device", "cuda", "--tp", degrees]
        command += ["--minutes", f"{each:.2f}", "--out", str(out / "profiles")]
        # Starting and building comes on top of it.
        found.append(Part(f"profile_{model}", command, round(each * 60) + 120, PROFILE))
    for model in VALIDATED:
        command = ["-m", "triptych", "validate", *declare(out, model, device), "--repeats", "1"]
        command += ["--load", "0.5,0.85", "--out", str(out / "validate" / model)]
        found.append(Part(f"validate_{model}", command, 240, VALIDATE))
    return found


def declare(out: Path, model: str, device: str) -> list[str]:
    """Writes a deployment and a workload, and names their files: JSON, which is YAML too."""
    pool = {
        "phases": ["prefill", "decode"],
        "device": device,
        "scheduler": {"policy": "unified", "max_batch": BATCH, "max_tokens": TOKENS},
        "kv_blocks": KV_BLOCKS,
    }
    workload = {
        "requests": 200,
        "arrivals": {"kind": "poisson", "rate": 8},
        "prompt": {"kind": "uniform", "low": 64, "high": 960},
        "output": {"kind": "uniform", "low": 16, "high": 128},
    }
    files = {"deployment": {"model": f"random:{model}", "pools": {"all": pool}}, "workload": workload}
    written = []
    for name, content in files.items():
        file = out / f"{name}-{model}.yaml"
        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        written.append(str(file))
    return written


def run(part: Part, out: Path, left: float) -> str:
    """Runs a part; says how it went."""
    missing = [package for package in part.needs if find_spec(package) is None]
    if missing:
        return f"left out: needs {', '.join(missing)}"
    seconds = min(part.seconds, left)
    if seconds < part.seconds / 2:
        return f"left out: {max(left, 0):.0f} s are left"
    environment = {**os.environ, "TRIPTYCH_TEST_DEVICE": "cuda", "PYTHONUNBUFFERED": "1"}
    environment["TRIPTYCH_PROFILES"] = str(out / "profiles")  # where `validate` looks first, and measures to
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    begin = time.monotonic()
    with (out / f"{part.name}.txt").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, *part.arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that its own processes end with it
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            end_group(process)
            return f"cut off after {seconds:.0f} s"
    return "passed" if code == 0 else f"exit code {code} after {time.monotonic() - begin:.0f} s"


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and those that it has started; the first signals let it write what it has."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)


if __name__ == "__main__":
    sys.exit(main())
