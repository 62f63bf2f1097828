"""Our metrics are those of AIPerf, where that is installed: both measure one server with known times."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from triptych.bench import Server, bench
from triptych.record import summarise
from triptych.spec.workload import WorkloadSpec

from .fake_server import MODEL, serving

AIPERF = shutil.which("aiperf", path=str(Path(sys.executable).parent)) or shutil.which("aiperf")
REQUESTS, TOKENS = 24, 8
FIRST, GAP = 0.15, 0.04
NAMES = {
    "time_to_first_token": "ttft",
    "inter_token_latency": "tpot",
    "inter_chunk_latency": "itl",
    "request_latency": "e2e",
}
"""AIPerf's names -> ours."""
CLOSE = 0.012
"""Seconds: AIPerf's processes share the cores with the server."""

pytestmark = pytest.mark.skipif(AIPERF is None, reason="AIPerf is not installed")


def make_tokenizer(folder: Path) -> None:
    """One that AIPerf can make prompts with."""
    tokenizers = pytest.importorskip("tokenizers")
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = {a + b: number for number, (a, b) in enumerate((a, b) for a in letters for b in letters)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({**words, "?": len(words)}, "?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "?"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def run_aiperf(url: str, folder: Path) -> dict[str, Any]:
    make_tokenizer(folder / "tokenizer")
    arguments = {
        "--model": MODEL,
        "--url": url.removesuffix("/v1"),
        "--endpoint-type": "chat",
        "--tokenizer": folder / "tokenizer",
        "--request-count": REQUESTS,
        "--concurrency": 3,
        "--warmup-request-count": 6,
        "--synthetic-input-tokens-mean": 50,
        "--output-tokens-mean": TOKENS,
        "--extra-inputs": "ignore_eos:true",
        "--workers-max": 1,
        "--record-processors": 1,
        "--artifact-dir": folder / "out",
        "--ui": "none",
    }
    flags = ["--streaming", "--use-server-token-count", "--no-gpu-telemetry", "--no-server-metrics"]
    words = [str(word) for pair in arguments.items() for word in pair]
    command = [str(AIPERF), "profile", *words, *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-2000:]
    found: dict[str, Any] = json.loads((folder / "out/profile_export_aiperf.json").read_text())
    return found


def test_latencies_agree_with_those_of_aiperf(tmp_path: Path) -> None:
    spec = WorkloadSpec.parse(
        {
            "requests": REQUESTS,
            "arrivals": {"kind": "closed", "concurrency": 3},
            "prompt": {"kind": "fixed", "tokens": 50},
            "output": {"kind": "fixed", "tokens": TOKENS},
        }
    )
    with serving(first=FIRST, gap=GAP) as fake:
        ours = summarise(bench(spec, Server(fake.url, api="chat"), warmup=6))
        theirs = run_aiperf(fake.url, tmp_path)
    assert theirs["request_count"]["avg"] == ours.counts.finished == REQUESTS
    for name, metric in NAMES.items():
        for theirs_at, ours_at in (("avg", "mean"), ("p50", "p50"), ("p90", "p90")):
            seconds = theirs[name][theirs_at] / 1000
            assert ours.latency[metric].at(ours_at) == pytest.approx(seconds, abs=CLOSE), (name, ours_at)
    assert theirs["total_osl"]["avg"] == ours.counts.output_tokens
