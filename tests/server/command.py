"""A server that is started as a command, with a real model behind it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
from tests.engine import tiny

from triptych.spec.yaml import dump_yaml, parse_yaml

ROOT = Path(__file__).parents[2]
SERVE = ("-m", "triptych", "serve")
_START = 120.0
"""Seconds to load a tiny model on a busy machine."""


@dataclass
class Process:
    """A running server."""

    process: subprocess.Popen[bytes]
    url: str
    model: str
    record: Path

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)

    @property
    def worker(self) -> psutil.Process:
        """The worker process of the moment."""
        (child,) = psutil.Process(self.process.pid).children()
        return child

    def metric(self, name: str) -> float:
        """One metric of /metrics, over all of its phases."""
        lines = httpx.get(f"{self.url}/metrics", timeout=30).text.splitlines()
        found = [line for line in lines if line.startswith((f"{name} ", f"{name}{{phase="))]
        assert found, name
        return sum(float(line.split()[-1]) for line in found)

    def left(self) -> dict[str, float]:
        """What is under way and what it holds, as /metrics has it."""
        names = ("requests_in_flight", "requests_waiting", "requests_running", "kv_blocks_used")
        return {name: self.metric(f"triptych_{name}") for name in names}

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def declare(config: Path, folder: Path, **pool: Any) -> Path:
    """A deployment of a model with random weights; fields of the pool that differ from the usual ones."""
    images = "vision_config" in config.read_text(encoding="utf-8")
    usual = {
        "phases": ["encode", "prefill", "decode"] if images else ["prefill", "decode"],
        "device": "CPU",
        "precision": dict.fromkeys(("weights", "kv", "compute"), "fp32"),
        "scheduler": {"policy": "unified" if images else "sarathi", "max_batch": 32},
        "kv_blocks": 300,
        "prefix_cache": True,
    }
    if images:
        usual["embedding_cache"] = "1 MB"
    file = folder / "deployment.yaml"
    declared = {"model": f"random:{config}", "pools": {"all": usual | pool}}
    file.write_text(dump_yaml(declared), encoding="utf-8")
    return file


@contextmanager
def served(
    deployment: Path,
    *options: str,
    command: Sequence[str] = SERVE,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Process]:
    """A server of a deployment, on a free port; what it says is in `log` beside the deployment."""
    folder = deployment.parent
    log = folder / "log"
    variables = {**os.environ, "PYTHONPATH": "src", "OMP_NUM_THREADS": "1", **(environment or {})}
    words = [sys.executable, *command, str(deployment), *options]
    with log.open("wb") as said:
        process = subprocess.Popen(words, cwd=ROOT, env=variables, stderr=said)
    try:
        url = _address(process, log)
        model = parse_yaml(deployment.read_text(encoding="utf-8"))["model"]
        yield Process(process, url, model, folder / "record")
    finally:
        process.kill()
        process.wait()


@contextmanager
def serving(family: str, folder: Path, *options: str) -> Iterator[Process]:
    """`triptych serve` of a tiny model, with a record."""
    deployment = declare(tiny.config_file(family, folder), folder)
    with served(deployment, "--port", "0", "--record", str(folder / "record"), *options) as process:
        yield process


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + _START
    while time.monotonic() < end:
        found = re.search(r"is served at (http://[\d.:]+),", log.read_text(encoding="utf-8"))
        if found:
            return found[1]
        assert process.poll() is None, log.read_text(encoding="utf-8")
        time.sleep(0.05)
    raise AssertionError(f"the server does not start: {log.read_text(encoding='utf-8')}")
