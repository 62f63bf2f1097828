"""The CPU at hand as a device: measured in a second or two, and kept for the next time."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from functools import cache
from importlib.metadata import version
from pathlib import Path
from tempfile import NamedTemporaryFile

from triptych.catalog import machine, probe
from triptych.spec.base import SpecError
from triptych.spec.device import Device
from triptych.spec.paths import cache_folder

CPU = "CPU"
"""As a device: the processor at hand."""
_VERSION = 1
"""Version of the way it is measured: another one makes what was kept stale."""
_PATIENCE = 60.0
"""Seconds after which the measurement is taken to hang."""
_BUSY = 0.1
"""Share of the time that the measurement may wait for a processor and still be kept."""
_WIDER = (("amx_bf16", 10.5), ("avx512_bf16", 2.0), ("avx_ne_convert", 1.0), ("bf16", 2.0))
"""Instruction set -> how many times faster bf16 products are than fp32 ones. VDPBF16PS and BFDOT multiply two
pairs where the fp32 instruction multiplies one; of AMX it is the measured ratio of CPU-XEON-4."""
_MEMORY = 0.75
"""Share of the memory that a server may count on."""
_LIBRARY_SETTINGS = ("OPENBLAS_", "GOTO_", "MKL_", "BLIS_", "OMP_")
"""Variables of numerical libraries, which may choose slower kernels or fewer threads for this program."""


@cache
def this_cpu() -> Device:
    """The CPU at hand, from the cache if it was measured before.

    Raises:
        SpecError: it cannot be measured.
    """
    path = stored_path()
    try:
        return Device.load(path)
    except SpecError:
        device, steady = measured()
        if steady:
            keep(device, path)
        return device


def stored_path() -> Path:
    """Where the device is kept: another processor, other cores, memory or NumPy are another device."""
    known = (machine.processor(), machine.cores(), machine.threads(), machine.memory(), version("numpy"))
    key = hashlib.sha256(repr((*known, _VERSION)).encode()).hexdigest()[:16]
    return cache_folder() / "devices" / f"cpu-{key}.yaml"


def keep(device: Device, path: Path) -> None:
    """Writes a device, whole or not at all; where there is no room for it, it is measured again next time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=path.parent, suffix=".new", delete=False) as new:
            new.write(device.to_yaml())
        Path(new.name).replace(path)
    except OSError:
        return


def measured() -> tuple[Device, bool]:
    """Measures it.

    Returns:
        The device, and whether the measurement had the processor nearly to itself.

    Raises:
        SpecError: the measuring program fails.
    """
    plain = {name: text for name, text in os.environ.items() if not name.startswith(_LIBRARY_SETTINGS)}
    count = str(machine.threads())
    given = {"OPENBLAS_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OMP_NUM_THREADS": count}
    problem = ""
    for settings in (plain, dict(os.environ)):  # a setting may be there because nothing works without it
        try:
            answer = subprocess.run(
                [sys.executable, "-P", str(Path(probe.__file__)), count],
                env=settings | given,
                capture_output=True,
                text=True,
                timeout=_PATIENCE,
                check=True,
            ).stdout
            found = json.loads(answer)
            return _device(found["fp32"], found["bandwidth"]), found["waited"] <= _BUSY
        except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
            problem = str(error)
    raise SpecError(
        "device", f"the CPU at hand could not be measured ({problem}); name a device file instead of {CPU}"
    )


def _device(fp32: float, bandwidth: float) -> Device:
    cores, features = machine.cores(), machine.features()
    wider, ratio = next(((name, ratio) for name, ratio in _WIDER if name in features), ("", 1.0))
    derived = f"{ratio:g} times fp32, for {wider}" if wider else "as fp32, in which it is computed"
    each = f"assumption: for each of {cores} cores"
    return Device.parse(
        {
            "name": CPU,
            "architecture": f"{machine.processor()}, {cores} core{'s' if cores > 1 else ''}",
            "flops": {"fp32": round(fp32, -9), "bf16": round(fp32 * ratio, -9)},
            "memory": int(machine.memory() * _MEMORY),
            "bandwidth": round(bandwidth, -8),
            "link": {
                "name": "shared memory",
                "bandwidth": round(bandwidth / 2, -8),
                "latency": 20e-6,
                "source": "assumption: a copy between processes reads and writes at the measured bandwidth "
                "together; latency of waking a process",
            },
            "launch_overhead": 10e-6,
            "iteration_overhead": 1e-3,
            "idle_watts": 2.5 * cores,
            "peak_watts": 7.5 * cores,
            "dollars_per_hour": 0.05 * cores,
            "efficiency": {
                "matmul": 1.0,
                "attention": 0.5,
                "memory": 1.0,
                "network": 1.0,
                "source": "matmul and memory: 1, since FLOP/s and bandwidth are measured; the others: "
                "assumption",
            },
            "sources": {
                "flops": f"measured {time.strftime('%Y-%m-%d')}: fp32 product of 768 x 768 in NumPy on "
                f"{machine.threads()} threads, the quickest; bf16 {derived}",
                "bandwidth": "measured with it: a matrix of 256 MiB read for a product with a vector",
                "memory": f"{_MEMORY:.0%} of this machine's, or of the cgroup's limit",
                "launch_overhead": "assumption: dispatch of one operator by PyTorch",
                "iteration_overhead": "assumption: scheduling, input building and sampling on the host",
                "idle_watts": f"{each}, its share of an idle socket",
                "peak_watts": f"{each}, its share of a socket at work, and of its memory",
                "dollars_per_hour": f"{each}, of the order of cloud list prices; set dollars_per_hour of "
                "the pool to what you pay",
            },
        }
    )
