"""How fast the simulator is, and that its time per request grows neither with requests nor with instances.

Two settings:

single   Llama-3-8B on one A100-80GB, sarathi, chunks of 512, batch cap 512; lengths with the quantiles
         of the Azure 2023 conversation trace, Poisson arrivals at 6.45 requests/s; 2,000 and 20,000 requests.
         The setting in which Vidur was measured on this kind of machine (2 cores): 957 requests/s with its
         metrics on and 1,469 with them off (7,250 iterations/s), after 25 s of set-up and with 5.7 GB.
cluster  1,000 H100s in encode, prefill and decode pools under 1,000,000 requests of text and images.

What is timed is the whole of it: looking the deployment up, drawing the requests, simulating, the record,
all metrics of every request (percentiles of its own token gaps included) and the summary; not the start of
the interpreter, which `startup_s` shows. Every measurement has a process of its own, warmed up by a small
run. The named baseline of the same run is `step`: the same simulator with jumps switched off, one iteration
at a time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SINGLE = (EXAMPLES / "deployments/llama-a100.yaml", EXAMPLES / "workloads/chat.yaml")
CLUSTER = (EXAMPLES / "deployments/cluster.yaml", EXAMPLES / "workloads/vision-chat.yaml")
CLUSTER_RATE_PER_INSTANCE = 5.0


def main() -> None:
    """Runs what was asked for, prints a table and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="leave the large cluster out")
    parser.add_argument("--json", metavar="FILE", help="write the figures by name; - for standard output")
    options = parser.parse_args()
    figures = {"compiled": is_compiled(), "startup_s": startup()}
    figures |= single(repeats=5 if options.quick else 9)
    figures |= scaling()
    if not options.quick:
        figures |= cluster()
    if options.json == "-":
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(f"{name:32} {value:,.3f}" if isinstance(value, float) else f"{name:32} {value}")
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def is_compiled() -> bool:
    """Whether the hot path was compiled (`make fast`)."""
    from triptych.simulation import lane

    return not lane.__file__.endswith(".py")


def startup() -> float:
    """Median seconds from starting the command to its first look at a file (an error about a missing one)."""
    command = [sys.executable, "-m", "triptych", "simulate", "missing.yaml", "missing.yaml"]
    seconds = []
    for _ in range(7):
        began = time.perf_counter()
        subprocess.run(command, capture_output=True, check=False)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def single(repeats: int) -> dict[str, float]:
    """One instance: rates at 2,000 and 20,000 requests, and against stepping, interleaved."""
    jump, step, large = [], [], []
    for _ in range(repeats):
        jump.append(in_process(*SINGLE, requests=2_000))
        step.append(in_process(*SINGLE, requests=2_000, jump=False))
        large.append(in_process(*SINGLE, requests=20_000))
    seconds = median(large, "seconds")
    return {
        "single.requests_per_s": 20_000 / seconds,
        "single.requests_per_s_2000": 2_000 / median(jump, "seconds"),
        "single.iterations_per_s": large[0]["iterations"] / seconds,
        "single.output_tokens_per_s": large[0]["tokens"] / seconds,
        "single.loop_requests_per_s": 20_000 / median(large, "loop_seconds"),
        "single.peak_mb": max(run["peak_mb"] for run in large),
        "single.ratio_to_step": median(step, "seconds") / median(jump, "seconds"),
    }


def scaling() -> dict[str, float]:
    """Microseconds per request as requests, and then instances with the traffic for each, grow fourfold."""
    figures = {}
    for requests in (5_000, 20_000, 80_000):
        run = in_process(*SINGLE, requests=requests)
        figures[f"scaling.us_per_request.{requests}_requests"] = run["seconds"] / requests * 1e6
    for instances in (10, 40, 160):
        overrides = [
            f"pools.encode.instances={instances * 2 // 10}",
            f"pools.prefill.instances={instances * 5 // 10}",
            f"pools.decode.instances={instances * 3 // 10}",
        ]
        run = in_process(
            *CLUSTER, requests=20_000, rate=CLUSTER_RATE_PER_INSTANCE * instances, overrides=overrides
        )
        figures[f"scaling.us_per_request.{instances}_instances"] = run["seconds"] / 20_000 * 1e6
    return figures


def cluster() -> dict[str, float]:
    """A thousand instances, a million requests."""
    run = in_process(*CLUSTER, requests=1_000_000, rate=CLUSTER_RATE_PER_INSTANCE * 1000)
    return {
        "cluster.seconds": run["seconds"],
        "cluster.peak_mb": run["peak_mb"],
        "cluster.requests_per_s": 1_000_000 / run["seconds"],
        "cluster.iterations_per_s": run["iterations"] / run["seconds"],
    }


def median(runs: list[dict[str, float]], name: str) -> float:
    """The median of a figure over runs."""
    return statistics.median(run[name] for run in runs)


def in_process(*args: Any, **options: Any) -> dict[str, float]:
    """`measure` in a fresh process, so that its peak memory is its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(measure, args, options)


def measure(
    deployment: Path,
    workload: Path,
    *,
    requests: int,
    rate: float | None = None,
    overrides: list[str] | None = None,
    jump: bool = True,
) -> dict[str, float]:
    """Seconds, iterations, tokens and peak memory of one simulation with all its metrics."""
    import triptych

    extra = [f"workload.requests={requests}"]
    if rate is not None:
        extra.append(f"workload.arrivals.rate={rate}")
    triptych.summarise(triptych.simulate(deployment, workload, overrides=["workload.requests=50"])).to_dict()
    began = time.perf_counter()
    run = triptych.simulate(deployment, workload, overrides=[*(overrides or []), *extra], jump=jump)
    loop_ended = time.perf_counter()
    summary = triptych.summarise(run)
    for name in ("ttft", "tpot", "e2e", "itl_p50", "itl_p90", "itl_p99", "itl_max"):
        run.column(name)
    ended = time.perf_counter()
    served = summary.counts.finished + summary.counts.rejected  # a few prompts are beyond the model's context
    if served != requests:
        raise SystemExit(f"{served} of {requests} requests finished or were rejected")
    return {
        "seconds": ended - began,
        "loop_seconds": loop_ended - began,
        "iterations": float(sum(lane.columns["iterations"].sum() for lane in run.lanes)),
        "tokens": float(summary.counts.output_tokens),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    main()
