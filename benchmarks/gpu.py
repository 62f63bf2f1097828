"""All that wants a GPU, in one go: each part is bounded in time and leaves its output in a folder.

    python benchmarks/gpu.py --out DIR [--device H200]

Needs a Python with torch for CUDA, and the packages of the extra [engine] and of the tests.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch

from triptych import catalog

ROOT = Path(__file__).resolve().parent.parent
PROFILED = ("Llama-3-8B", "Qwen2.5-VL-7B", "Qwen2.5-VL-72B", "Qwen3-30B-A3B", "OPT-125M")
TENSOR = (1, 2, 4, 8)


def main() -> int:
    """Returns 0 if all parts passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="H200", help="name in the device catalogue of the one at hand")
    parser.add_argument("--minutes", type=float, default=8.0, help="of profiling, all models together")
    parser.add_argument(
        "--only", metavar="PART", default="", help="parts whose name begins so: engine, profile"
    )
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu: torch finds no CUDA device", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    speed = ["benchmarks/engine.py", "--device", options.device, "--chunk", "8192"]
    parts = {
        "engine_tests": (["-m", "pytest", "tests/engine", "-p", "no:cacheprovider"], 240),
        "engine_speed": ([*speed, "--json", str(options.out.resolve() / "engine_speed.json")], 300),
    }
    parts |= profiles(options.out.resolve() / "profiles", options.minutes)
    parts = {name: part for name, part in parts.items() if name.startswith(options.only)}
    if not parts:
        parser.error(f"the name of no part begins with {options.only}")
    environment = {**os.environ, "TRIPTYCH_TEST_DEVICE": "cuda", "PYTHONPATH": str(ROOT / "src")}
    results = {name: run(name, *part, options.out, environment) for name, part in parts.items()}
    about = {
        "device": torch.cuda.get_device_name(),
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "parts": results,
    }
    (options.out / "about.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(about, indent=2))
    return int(any(result != "passed" for result in results.values()))


def profiles(out: Path, minutes: float) -> dict[str, tuple[list[str], int]]:
    """A part for each model, all with the same time; starting and building comes on top of it."""
    each = minutes / len(PROFILED)
    parts = {}
    for model in PROFILED:
        degrees = ",".join(str(degree) for degree in TENSOR if catalog.model(model).text.heads % degree == 0)
        command = ["-m", "triptych", "profile", "--model", model, "--device", "cuda", "--tp", degrees]
        command += ["--minutes", f"{each:.2f}", "--out", str(out)]
        parts[f"profile_{model}"] = (command, round(each * 60) + 120)
    return parts


def run(name: str, arguments: list[str], seconds: int, out: Path, environment: dict[str, str]) -> str:
    """Runs a part; says how it went."""
    with (out / f"{name}.txt").open("w", encoding="utf-8") as log:
        try:
            code = subprocess.run(
                [sys.executable, *arguments],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            return f"cut off after {seconds} s"
    return "passed" if code == 0 else f"exit code {code}"


if __name__ == "__main__":
    sys.exit(main())
