"""Tables of what the catalogue holds, which fit in 80 columns and read as well in a file."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from triptych import catalog
from triptych.report.format import number, scaled
from triptych.spec.device import Device, Link, Precision

_MODELS = "active: parameters that one token uses. KV/token: bf16. vision: the tower's."
_DEVICES = "FLOP/s: dense. link: per device and direction. power: idle-peak."
_NODES = "network: per device and direction."


def print_models(console: Console | None = None) -> None:
    """Lists the models: size, layers, KV cache, experts and vision tower."""
    console = console or Console()
    table = _table("model", "parameters", "active", "layers", "KV/token", "experts", "vision")
    for name in catalog.model_names():
        model = catalog.model(name)
        text = model.text
        table.add_row(
            name,
            scaled(model.parameters, ""),
            scaled(model.active_parameters, "") if text.experts else "",
            str(text.layers),
            f"{model.kv_bytes_per_token('bf16') / 2**10:,.0f} KiB",
            f"{text.experts.top_k} of {text.experts.count}" if text.experts else "",
            scaled(model.vision.parameters, "") if model.vision else "",
        )
    _print(console, table, _MODELS)


def print_devices(console: Console | None = None) -> None:
    """Lists the devices and the nodes they come in."""
    console = console or Console()
    table = _table(
        *("device", "bf16\nTFLOP/s", "fp8\nTFLOP/s", "memory\nGiB", "memory\nTB/s", "link", "\nGB/s"),
        *("power\nwatts", "\n$/h"),
        left=("device", "link"),
        gap=1,
    )
    for name in catalog.device_names():
        device = catalog.device(name)
        table.add_row(
            name,
            _tera(device, "bf16"),
            _tera(device, "fp8"),
            number(device.memory / 2**30),
            number(device.bandwidth / 1e12),
            device.link.name,
            _giga(device.link),
            f"{device.idle_watts:.0f}-{device.peak_watts:.0f}",
            f"{device.dollars_per_hour:.2f}",
        )
    _print(console, table, f"{_DEVICES}\nCPU: as measured at hand: {catalog.device('CPU').architecture}.")
    nodes = _table("node", "devices", "topology", "network", "\nGB/s", left=("node", "topology", "network"))
    for name in catalog.node_names():
        node = catalog.node(name)
        nodes.add_row(name, str(node.devices), node.topology, node.network.name, _giga(node.network))
    console.print()
    _print(console, nodes, _NODES)


def models_as_dicts() -> list[dict[str, Any]]:
    """The models with what their table shows, in parameters and bytes."""
    models = [catalog.model(name) for name in catalog.model_names()]
    return [
        {
            "name": model.name,
            "parameters": model.parameters,
            "active_parameters": model.active_parameters,
            "layers": model.text.layers,
            "kv_bytes_per_token": model.kv_bytes_per_token("bf16"),
            "experts": None if model.text.experts is None else model.text.experts.count,
            "active_experts": None if model.text.experts is None else model.text.experts.top_k,
            "vision_parameters": None if model.vision is None else model.vision.parameters,
        }
        for model in models
    ]


def devices_as_dicts() -> dict[str, list[dict[str, Any]]]:
    """The devices and nodes with all their fields, in base units."""
    return {
        "devices": [catalog.device(name).model_dump(mode="json") for name in catalog.device_names()],
        "nodes": [catalog.node(name).model_dump(mode="json") for name in catalog.node_names()],
    }


def hardware_file(name: str) -> str:
    """A device or node as the YAML file that declares it.

    Raises:
        SpecError: there is none of this name.
    """
    if name.lower() in (node.lower() for node in catalog.node_names()):
        return catalog.node(name).to_yaml()
    return catalog.device(name, field="--show").to_yaml()


def _tera(device: Device, precision: Precision) -> str:
    return number(device.flops[precision] / 1e12) if precision in device.flops else ""


def _giga(link: Link) -> str:
    return number(link.bandwidth / 1e9)


def _table(*headings: str, left: tuple[str, ...] = ("model",), gap: int = 2) -> Table:
    """Columns as wide as they need to be; a terminal too narrow for them wraps, and cuts nothing off."""
    table = Table(box=None, padding=(0, 0, 0, gap), pad_edge=False, header_style="bold cyan")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in left else "right", overflow="fold")
    return table


def _print(console: Console, table: Table, note: str) -> None:
    console.print(table, highlight=False)
    console.print(note, style="dim italic", highlight=False)
