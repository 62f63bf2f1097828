"""Clients of other projects against `triptych serve`: whether they run, and what they report.

    python benchmarks/clients.py [--quick] [--json FILE] [--only NAME ...] [--venvs FOLDER]

Starts a server of OPT-125M with random weights, and sends it chats of 128 tokens of prompt and 20 of output,
four at a time, by `triptych bench` and by each other client in turn. Clients live in environments of their
own, made on first use. Ends with exit code 1 if one of them fails.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

import triptych
from triptych.engine.tokenizer import load_tokenizer
from triptych.record.folder import read_run
from triptych.validation.server import served

HERE = Path(__file__).resolve().parent
MODEL = "random:opt-125m"
CONCURRENCY = 4
PROMPT = 128
OUTPUT = 20
_PACKAGES = {
    "guidellm": ["guidellm==0.8.1", "torch==2.13.0"],
    "aiperf": ["aiperf==0.13.0"],
    "libraries": ["openai==3.57.0", "litellm==1.110.2", "langchain-openai==1.7.4"],
}
_SECONDS = 900.0
"""That a client may take."""
_OFFLINE = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "OPENAI_API_KEY": "none"}
COLUMNS = ("requests", "ttft_ms", "tpot_ms", "output_tokens_per_s")

Figures = dict[str, float]


@dataclass(frozen=True)
class Task:
    """What a client is to do."""

    url: str
    """URL of the server, without `/v1`."""
    tokenizer: Path
    requests: int
    out: Path
    """Folder for what the client writes."""


@dataclass(frozen=True)
class Client:
    """A client: how it is called, and where its figures are."""

    name: str
    command: Callable[[Task], list[str]]
    """Less the interpreter."""
    figures: Callable[[Task], Figures]
    packages: str | None = None
    """Key of its environment; None: our own."""
    environment: dict[str, str] = field(default_factory=dict)


def triptych_bench(task: Task) -> list[str]:
    """Our own."""
    workload = {
        "requests": task.requests,
        "arrivals": {"kind": "closed", "concurrency": CONCURRENCY},
        "prompt": {"kind": "fixed", "tokens": PROMPT},
        "output": {"kind": "fixed", "tokens": OUTPUT},
    }
    file = task.out / "workload.yaml"
    file.write_text(json.dumps(workload), encoding="utf-8")  # which YAML holds
    command = ["-m", "triptych", "bench", str(file), "--url", f"{task.url}/v1", "--api", "chat"]
    return [*command, "--tokenizer", str(task.tokenizer), "--out", str(task.out / "run")]


def triptych_figures(task: Task) -> Figures:
    """From the run record."""
    found = triptych.summarise(read_run(task.out / "run"))
    return {
        "requests": found.counts.finished,
        "ttft_ms": found.latency["ttft"].mean * 1000,
        "tpot_ms": found.latency["tpot"].mean * 1000,
        "output_tokens_per_s": found.throughput.output_tokens,
    }


def guidellm(task: Task) -> list[str]:
    """GuideLLM, which asks for the token counts in every chunk."""
    return [
        *("-m", "guidellm", "run", "--disable-console-interactive"),
        *("--backend", f"kind=openai_http,target={task.url},model={MODEL}"),
        *("--tokenizer", f"kind=huggingface_auto,model={task.tokenizer}"),
        *("--profile", f"kind=concurrent,streams={CONCURRENCY}"),
        *("--constraint", f"kind=max_requests,count={task.requests}"),
        *("--data", f"kind=synthetic_text,prompt_tokens={PROMPT},output_tokens={OUTPUT}"),
        *("--output", f"kind=json,path={task.out / 'report.json'}"),
    ]


def guidellm_figures(task: Task) -> Figures:
    """From its report."""
    (benchmark,) = json.loads((task.out / "report.json").read_text(encoding="utf-8"))["benchmarks"]
    metrics = benchmark["metrics"]
    return {
        "requests": metrics["request_totals"]["successful"],
        "ttft_ms": metrics["time_to_first_token_ms"]["successful"]["mean"],
        # Its own TPOT divides the time from the start by all tokens.
        "tpot_ms": metrics["inter_token_latency_ms"]["successful"]["mean"],
        "output_tokens_per_s": metrics["output_tokens_per_second"]["total"]["mean"],
    }


def aiperf(task: Task) -> list[str]:
    """AIPerf."""
    return [
        *("-m", "aiperf", "profile", "--model", MODEL, "--url", task.url, "--endpoint-type", "chat"),
        *("--streaming", "--tokenizer", str(task.tokenizer), "--ui", "none"),
        *("--request-count", str(task.requests), "--concurrency", str(CONCURRENCY)),
        *("--isl", str(PROMPT), "--osl", str(OUTPUT), "--extra-inputs", "ignore_eos:true"),
        *("--output-artifact-dir", str(task.out)),
    ]


def aiperf_figures(task: Task) -> Figures:
    """From its report."""
    report = json.loads((task.out / "profile_export_aiperf.json").read_text(encoding="utf-8"))
    return {
        "requests": report["request_count"]["avg"],
        "ttft_ms": report["time_to_first_token"]["avg"],
        "tpot_ms": report["inter_token_latency"]["avg"],
        "output_tokens_per_s": report["output_token_throughput"]["avg"],
    }


def libraries(task: Task) -> list[str]:
    """The official client, LiteLLM and LangChain, which measure nothing."""
    return [str(HERE / "client_libraries.py"), f"{task.url}/v1", str(task.out / "answers.json")]


def libraries_figures(task: Task) -> Figures:
    """How many of their calls were answered."""
    return {"requests": len(json.loads((task.out / "answers.json").read_text(encoding="utf-8")))}


CLIENTS = (
    Client("triptych bench", triptych_bench, triptych_figures),
    Client("GuideLLM", guidellm, guidellm_figures, "guidellm", {"HF_HUB_OFFLINE": "1"}),
    Client("AIPerf", aiperf, aiperf_figures, "aiperf"),
    Client("openai, LiteLLM, LangChain", libraries, libraries_figures, "libraries"),
)


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 requests by each instead of 100")
    parser.add_argument("--json", metavar="FILE", help="write the figures; - for standard output")
    parser.add_argument("--only", action="append", metavar="NAME", help="of a client; may be given again")
    parser.add_argument(
        "--venvs", type=Path, default=Path(".venv-clients"), help="folder of their environments"
    )
    options = parser.parse_args()
    chosen = [client for client in CLIENTS if not options.only or client.name in options.only]
    found: dict[str, Any] = {}
    with TemporaryDirectory() as folder:
        found = _measure(chosen, Path(folder), options.venvs.resolve(), 20 if options.quick else 100)
    if options.json == "-":
        print(json.dumps(found, indent=1))
        return _code(found)
    _show(found)
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return _code(found)


def _measure(clients: list[Client], folder: Path, venvs: Path, requests: int) -> dict[str, Any]:
    deployment, tokenizer = folder / "deployment.yaml", folder / "tokenizer"
    pool = {
        "phases": ["prefill", "decode"],
        "device": "CPU",
        "kv_blocks": 2000,
        "scheduler": {"policy": "sarathi", "max_batch": 64},
    }
    deployment.write_text(json.dumps({"model": MODEL, "pools": {"all": pool}}), encoding="utf-8")
    load_tokenizer(MODEL).save_pretrained(tokenizer)
    found: dict[str, Any] = {}
    interpreters = {client.name: _interpreter(venvs, client.packages) for client in clients}
    log = folder / "log"
    with served(deployment, [], record=folder / "record", log=log, go_on=lambda _: True) as server:
        for client in clients:
            out = folder / client.name
            out.mkdir()
            task = Task(server.url.removesuffix("/v1"), tokenizer, requests, out)
            found[client.name] = _run(client, interpreters[client.name], task)
            server.check()
    return found


def _run(client: Client, python: Path, task: Task) -> dict[str, Any]:
    command = [str(python), *client.command(task)]
    environment = {**os.environ, **_OFFLINE, **client.environment}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        if done.returncode:
            last = "\n".join((done.stdout + done.stderr).splitlines()[-8:])
            return {"failed": f"exit code {done.returncode}: {last}"}
        figures: dict[str, Any] = client.figures(task)
    except (subprocess.TimeoutExpired, OSError, KeyError, ValueError) as error:
        return {"failed": f"{type(error).__name__}: {error}"}
    if client.packages != "libraries" and figures["requests"] != task.requests:
        figures["failed"] = f"{figures['requests']} of {task.requests} requests finished"
    return figures


def _interpreter(venvs: Path, packages: str | None) -> Path:
    """That of an environment, which is made if it is not there."""
    if packages is None:
        return Path(sys.executable)
    python = venvs / packages / "bin" / "python"
    if not python.exists():
        venv.create(venvs / packages, with_pip=True)
        install = [str(python), "-m", "pip", "install", "--quiet", *_PACKAGES[packages]]
        subprocess.run(install, check=True)
    return python


def _show(found: dict[str, Any]) -> None:
    table = Table("client", *COLUMNS)
    for name, figures in found.items():
        table.add_row(name, *(f"{figures[key]:.1f}" if key in figures else "" for key in COLUMNS))
    console = Console()
    console.print(table)
    for name, figures in found.items():
        if "failed" in figures:
            console.print(f"{name}: {figures['failed']}", markup=False, highlight=False)


def _code(found: dict[str, Any]) -> int:
    return int(any("failed" in figures for figures in found.values()))


if __name__ == "__main__":
    sys.exit(main())
