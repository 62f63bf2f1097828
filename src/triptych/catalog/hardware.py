"""Devices and nodes by name: data-sheet figures with their sources, a YAML file each; and the CPU at hand."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from triptych.catalog.here import CPU, this_cpu
from triptych.catalog.lookup import DATA, find, path_of
from triptych.spec.device import Device, Node


def device(name: str, file: str | Path | None = None, *, field: str = "device") -> Device:
    """A device of the catalogue, or of a YAML file with the fields of `Device`.

    Args:
        name: a catalogue name, in any case, or a path. `CPU` is the processor at hand, which is measured when
            it is first asked for.
        file: the file in which the name was written, for errors; a relative path counts from its folder, or
            else from the working directory.
        field: where in it, for errors.

    Raises:
        SpecError: no such device or file, or a file that declares something wrong.
    """
    found = find(name, _entries("devices"), kind="device", field=field, file=file)
    return Device.load(found) if isinstance(found, Path) else _device(found)


def node(name: str, file: str | Path | None = None, *, field: str = "node") -> Node:
    """A node of the catalogue, or of a YAML file with the fields of `Node`.

    Args:
        name: a catalogue name, in any case, or a path.
        file: the file in which the name was written, for errors; a relative path counts from its folder, or
            else from the working directory.
        field: where in it, for errors.

    Raises:
        SpecError: no such node or file, or a file that declares something wrong.
    """
    found = find(name, _entries("nodes"), kind="node", field=field, file=file)
    return Node.load(found) if isinstance(found, Path) else _node(found)


def device_path(name: str, file: str | Path | None = None) -> Path | None:
    """The file that a device is named by; None: it is a catalogue name, or stands for nothing."""
    return path_of(name, _entries("devices"), file)


def node_path(name: str, file: str | Path | None = None) -> Path | None:
    """The file that a node is named by; None: it is a catalogue name, or stands for nothing."""
    return path_of(name, _entries("nodes"), file)


def device_names() -> tuple[str, ...]:
    """The devices of the catalogue, and `CPU`."""
    return tuple(_entries("devices").values())


def node_names() -> tuple[str, ...]:
    """The nodes of the catalogue."""
    return tuple(_entries("nodes").values())


@cache
def _device(name: str) -> Device:
    return this_cpu() if name == CPU else Device.load(DATA / "devices" / f"{name}.yaml")


@cache
def _node(name: str) -> Node:
    return Node.load(DATA / "nodes" / f"{name}.yaml")


@cache
def _entries(folder: str) -> Mapping[str, str]:
    own = [CPU] if folder == "devices" else []
    names = sorted([*own, *(path.stem for path in (DATA / folder).glob("*.yaml"))])
    return {name.lower(): name for name in names}
