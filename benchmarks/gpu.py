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

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Returns 0 if all parts passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="H200", help="name in the device catalogue of the one at hand")
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
