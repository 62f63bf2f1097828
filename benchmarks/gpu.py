"""What a GPU has to show, in one run of eight minutes: each part is bounded, and a cut loses the rest only.

    python benchmarks/gpu.py --out DIR [--device H200] [--only PART,PART] [--seconds N] [--wheels DIR]

Needs a Python with torch for CUDA and transformers. A part whose packages are not all there is left out;
`gpu_wheels.py` brings along those that are missing. What parts write is in the folder `--work`; after each of
them three files in `--out` hold all of it: summary.md, about.json, and results.tar.gz, with which `--resume`
goes on.

engine_tests   tests/engine on the GPU
decode_*       decodes, by plain passes and by graphs, and prompts beside `generate` and the device's bounds
profile_*      operators of a model; they share the time that the others leave
validate_*     `triptych validate` at half and at 85 % of capacity, on the profile just measured
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import torch

from gpu_parts import AROUND, ROOT, Part, gpu, parts, rehearsal
from gpu_wheels import install

_SHOWN = 16
"""Last lines of a part's output in the summary."""
_SITE = "site"
"""Folder for packages; not among the results."""
_LARGE = 16e6
"""Bytes of results beyond which it is said what takes them."""
LATE = 10
"""Seconds that a part which measures may take longer than it should, before it is cut off."""
_GRACE = 5
"""Seconds that a part has to write what it has, after each of the signals that end it."""


def main() -> int:
    """Returns 0 if all parts that could run passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the three files")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/gpu", help="folder for what parts write")
    parser.add_argument("--device", default="H200", help="name in the device catalogue of the one at hand")
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="for all parts; what comes too late is left out"
    )
    parser.add_argument("--only", default="", help="parts whose names begin so: engine,profile_Llama")
    parser.add_argument("--wheels", type=Path, help="folder of packages that this Python may lack")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="results.tar.gz of an earlier call")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with a model of two layers")
    options = parser.parse_args()
    # What is started in a shell's background ignores Ctrl-C, as would the parts, which are cut off by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    until = time.monotonic() + options.minutes * 60
    if not options.rehearse and not torch.cuda.is_available():
        print("gpu: torch finds no CUDA device; --rehearse runs all of it on the CPU", file=sys.stderr)
        return 2
    work, out = options.work.resolve(), options.out.resolve()
    for folder in (work, out):
        folder.mkdir(parents=True, exist_ok=True)
    if options.resume is not None:
        with tarfile.open(options.resume) as archive:
            archive.extractall(work, filter="data")
    if options.wheels is not None and options.wheels.is_dir():
        add_packages(options.wheels, work / _SITE)
    found = parts(rehearsal(work) if options.rehearse else gpu(options.device), work)
    wanted = options.only.split(",")
    chosen = [part for start in wanted for part in found if part.name.startswith(start)]
    chosen = list({part.name: part for part in chosen}.values())
    if not chosen:
        parser.error(f"the name of no part begins with {options.only}")
    results: dict[str, str] = {}
    shown: list[str] = []
    for place, part in enumerate(chosen):
        seconds = budget(part, chosen[place + 1 :], until - time.monotonic())
        results[part.name] = result = run(part, work, seconds)
        shown.append(f"## {part.name}: {result}\n\n```\n{end_of(work / f'{part.name}.txt')}\n```\n")
        print(shown[-1], flush=True)
        write(out, work, results, shown)  # after each, so that what was found outlives the rest
    bad = [result for result in results.values() if result != "passed" and not result.startswith("left out")]
    return int(bool(bad))


def add_packages(wheels: Path, site: Path) -> None:
    """Lays out what this Python lacks, for this process and those of the parts."""
    try:
        added = install(wheels, site)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"gpu: packages of {wheels} cannot be added: {error}", file=sys.stderr, flush=True)
        return
    print(f"packages added: {', '.join(added) or 'none'}", flush=True)
    sys.path.append(str(site))
    importlib.invalidate_caches()


def budget(part: Part, later: Sequence[Part], left: float) -> float:
    """Seconds for a part.

    Args:
        part: the next.
        later: those behind it.
        left: seconds there are for all.

    Returns:
        All that is left, or, for a part that takes as long as it is given, its share of what the bounds of
        the others leave.
    """
    if not part.weight:
        return left
    rest = [part, *(each for each in later if each.weight and not each.is_done)]
    free = left - sum(each.seconds for each in later if not each.weight) - (AROUND + LATE) * len(rest)
    return AROUND + free * part.weight / sum(each.weight for each in rest)


def run(part: Part, work: Path, left: float) -> str:
    """Runs a part.

    Args:
        part: what to run.
        work: where its output goes.
        left: seconds there are for it.

    Returns:
        How it went.
    """
    if part.is_done:
        return "left out: all of it is measured"
    (work / f"{part.name}.txt").unlink(missing_ok=True)
    missing = [package for package in part.needs if find_spec(package) is None]
    if missing:
        return f"left out: needs {', '.join(missing)}"
    if left < part.least:
        return f"left out: {max(left, 0):.0f} s are left"
    arguments, seconds = list(part.arguments), min(part.seconds, left)
    if part.weight:
        arguments += ["--minutes", f"{(seconds - AROUND) / 60:.2f}"]
        seconds += LATE
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "110", **part.environment}
    environment["TRIPTYCH_PROFILES"] = str(work / "profiles")  # where `validate` looks first
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")]), str(work / _SITE)]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    begin = time.monotonic()
    with (work / f"{part.name}.txt").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, *arguments],
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
            process.wait(_GRACE)


def end_of(log: Path) -> str:
    """Its last lines."""
    if not log.is_file():
        return ""
    lines = [line.rstrip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return "\n".join([line for line in lines if line][-_SHOWN:])


def write(out: Path, work: Path, results: dict[str, str], shown: Sequence[str]) -> None:
    """The three files, each replaced in one step: whoever is cut off here leaves the ones before."""
    about = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor(),
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "parts": results,
    }
    replace(out / "about.json", json.dumps(about, indent=2) + "\n")
    replace(out / "summary.md", "\n".join(shown))
    archive = out / ".results.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        for path in sorted(work.iterdir()):
            if path.name != _SITE and path != out:
                packed.add(path, path.name)
    if archive.stat().st_size > _LARGE:
        sizes = {path: path.stat().st_size for path in work.rglob("*") if path.is_file()}
        largest = sorted(sizes, key=lambda path: -sizes[path])[:3]
        names = ", ".join(f"{path.relative_to(work)} ({sizes[path] / 1e6:.0f} MB)" for path in largest)
        print(f"gpu: {archive.stat().st_size / 1e6:.0f} MB of results; the largest: {names}", file=sys.stderr)
    archive.replace(out / "results.tar.gz")


def replace(file: Path, text: str) -> None:
    """Writes a file in one step."""
    draft = file.with_name(f".{file.name}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(file)


if __name__ == "__main__":
    sys.exit(main())
