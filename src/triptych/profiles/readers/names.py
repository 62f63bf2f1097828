"""What others call devices and number formats, in our words."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from triptych.spec.base import SpecError, shown

_DEVICES = {
    r"RTX ?PRO ?6000": "RTX-PRO-6000",
    r"(RTX ?)4090": "RTX-4090",
    r"\bA100(?!.*40 ?GB)(?!.*PCIE)": "A100-80GB",
    r"\bA100(?!.*PCIE).*40 ?GB": "A100-40GB",
    r"\bH100(?!.*(PCIE|PCAP|NVL))": "H100",
    r"\bH200(?!.*NVL)": "H200",
    r"\bH20\b": "H20",
    r"\bB200\b": "B200",
    r"\bL40S\b": "L40S",
    r"\bA40\b": "A40",
    r"\bA10\b": "A10",
}
"""What a product's name holds -> name in the catalogue. PCIe and power-capped variants of the SXM modules
are other devices, of which the catalogue has no data sheet; a plain A100 is the one with 80 GB."""

_PRECISIONS = {
    "bfloat16": "bf16",
    "bf16": "bf16",
    "float16": "fp16",
    "fp16": "fp16",
    "half": "fp16",
    "fp8": "fp8",
    "int8": "int8",
    "float32": "fp32",
    "fp32": "fp32",
    "int4_wo": "int4",
}


def device_of(product: str, *, field: str, file: str | Path) -> str:
    """The name in the catalogue of what a driver or a folder calls a device.

    Raises:
        SpecError: the catalogue has none of that name.
    """
    for pattern, name in _DEVICES.items():
        if re.search(pattern, product.upper().replace("_", " ")):
            return name
    known = ", ".join(_DEVICES.values())
    problem = f"{shown(product)} is no device of the catalogue; profiles of {known} can be read"
    raise SpecError(field, problem, file=file)


def precisions_of(given: NDArray[np.object_]) -> NDArray[np.object_]:
    """Number formats in our words, shape (rows,); those without one keep their own ("fp8_block")."""
    return np.array([_PRECISIONS.get(name, name) for name in given.tolist()], dtype=object)


def slug(*parts: str) -> str:
    """The parts of a profile's name, joined."""
    return "-".join(part for part in parts if part).lower().replace(" ", "-").replace("/", "-")
