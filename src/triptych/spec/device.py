"""Devices and nodes: data-sheet figures, each with its source."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from triptych.spec.base import Spec
from triptych.spec.units import Bytes, BytesPerSecond, FlopPerSecond, Seconds

Precision = Literal["fp32", "bf16", "fp16", "fp8", "int8", "int4"]
BYTES_PER_ELEMENT: dict[str, float] = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "int4": 0.5,
}


class Efficiency(Spec):
    """Share of the data-sheet peak that well-written kernels reach, by operator class."""

    matmul: float = Field(gt=0, le=1)
    """Of dense FLOP/s, large matrix products."""
    attention: float = Field(gt=0, le=1)
    """Of dense FLOP/s, prefill attention."""
    memory: float = Field(gt=0, le=1)
    """Of memory bandwidth, weights streamed by matrix products and KV by decode attention."""
    network: float = Field(gt=0, le=1)
    """Of link bandwidth, collectives and transfers."""
    source: str


class Link(Spec):
    """A way between devices."""

    name: str
    bandwidth: BytesPerSecond
    """Per device, one direction."""
    latency: Seconds
    source: str = ""


class Device(Spec):
    """One accelerator (or one host CPU)."""

    name: str
    architecture: str
    flops: dict[Precision, FlopPerSecond]
    """Dense (not sparse) FLOP/s by precision of the operands."""
    memory: Bytes
    bandwidth: BytesPerSecond
    """Device memory."""
    link: Link
    """To its neighbours in a node when they are all connected."""
    launch_overhead: Seconds
    """Fixed time of one operator beside its work."""
    iteration_overhead: Seconds
    """Fixed host time of one iteration: scheduling, input building, sampling."""
    idle_watts: float = Field(ge=0)
    peak_watts: float = Field(gt=0)
    dollars_per_hour: float = Field(ge=0)
    efficiency: Efficiency
    sources: dict[str, str]
    """Figure (field name) -> where it is published."""


class Node(Spec):
    """A machine: how many devices it holds, how they are connected, and its way to other machines."""

    name: str
    devices: int = Field(gt=0)
    holds: tuple[str, ...] = ()
    """Names of the devices that it is built with; empty: any."""
    topology: Literal["all-to-all", "pairs", "pcie"]
    """all-to-all: `Device.link` between any two (NVSwitch); pairs: `Device.link` within a pair and PCIe
    beyond (NVLink bridge); pcie: PCIe between any two."""
    pcie: Link
    network: Link
    """Between nodes, per device."""
    sources: dict[str, str] = Field(default={})
