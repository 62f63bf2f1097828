"""Tables of what the catalogue holds."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from triptych import catalog
from triptych.report.format import scaled


def print_models(console: Console | None = None) -> None:
    """Lists the models: size, shape and KV cache."""
    table = _table(
        "models", ("model", "parameters", "active", "layers", "hidden", "KV/token", "experts", "vision")
    )
    for name in catalog.model_names():
        model = catalog.model(name)
        text = model.text
        table.add_row(
            name,
            scaled(model.parameters, ""),
            scaled(model.active_parameters, "") if text.experts else "",
            str(text.layers),
            str(text.hidden),
            scaled(model.kv_bytes_per_token("bf16"), "B"),
            f"{text.experts.top_k} of {text.experts.count}" if text.experts else "",
            f"{scaled(model.vision.parameters, '')}, patch {model.vision.patch}" if model.vision else "",
        )
    (console or Console()).print(table)


def print_devices(console: Console | None = None) -> None:
    """Lists the devices and the nodes they come in."""
    console = console or Console()
    table = _table("devices", ("device", "bf16", "fp8", "memory", "bandwidth", "link", "power", "$/h"))
    for name in catalog.device_names():
        device = catalog.device(name)
        table.add_row(
            name,
            *(
                scaled(device.flops[kind], "FLOP/s") if kind in device.flops else ""
                for kind in ("bf16", "fp8")
            ),
            scaled(device.memory, "B"),
            scaled(device.bandwidth, "B/s"),
            f"{device.link.name} {scaled(device.link.bandwidth, 'B/s')}",
            f"{device.idle_watts:.0f} to {device.peak_watts:.0f} W",
            f"{device.dollars_per_hour:.2f}",
        )
    console.print(table)
    nodes = _table("nodes", ("node", "devices", "topology", "network per device"))
    for name in catalog.node_names():
        node = catalog.node(name)
        network = f"{node.network.name} {scaled(node.network.bandwidth, 'B/s')}"
        nodes.add_row(name, str(node.devices), node.topology, network)
    console.print(nodes)


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position == 0 else "right", no_wrap=True)
    return table
