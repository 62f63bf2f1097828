"""What a profile was measured on: device, driver, libraries, clocks."""

from __future__ import annotations

import platform
import subprocess

import psutil
import torch
import transformers

from triptych.catalog.machine import cores, processor
from triptych.profiles.readers.names import device_of
from triptych.version import __version__

_QUERY = ("name", "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.limit")


def device_name(device: str) -> str:
    """Name in the catalogue of the device at hand.

    Raises:
        SpecError: the catalogue has none.
    """
    if device == "cpu":
        return "CPU"
    return device_of(torch.cuda.get_device_name(), field="--device", file="")


def versions(device: str) -> dict[str, str]:
    """Of all that the time depends on."""
    found = {
        "triptych": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }
    if device == "cuda":
        found |= {"cuda": str(torch.version.cuda), "driver": _nvidia().get("driver_version", "")}
    return found


def clocks(device: str) -> dict[str, str]:
    """Of processor and device, as the system reports them."""
    frequency = psutil.cpu_freq()
    found = {"processor": processor(), "cores": str(cores()), "threads": str(torch.get_num_threads())}
    if frequency is not None and frequency.current:
        found["processor clock"] = f"{frequency.current:.0f} MHz"
    if device == "cuda":
        found |= {name: value for name, value in _nvidia().items() if name.startswith(("clocks", "power"))}
    return found


def _nvidia() -> dict[str, str]:
    """What nvidia-smi says of the first device; nothing where there is none."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    lines = answer.splitlines()
    return dict(zip(_QUERY, (value.strip() for value in lines[0].split(",")), strict=False)) if lines else {}
