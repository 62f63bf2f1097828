"""Models, devices and nodes that are known by name.

Data, not code: facts of public configurations and data sheets, each with its source. An entry is
read when it is first asked for, and kept.
"""

from triptych.catalog.hardware import device, device_names, device_path, node, node_names, node_path
from triptych.catalog.models import RANDOM, config, model, model_names, model_path

__all__ = [
    "RANDOM",
    "config",
    "device",
    "device_names",
    "device_path",
    "model",
    "model_names",
    "model_path",
    "node",
    "node_names",
    "node_path",
]
