"""Models, devices and nodes that are known by name.

Data, not code: facts of public configurations and data sheets, each with its source. An entry is
read when it is first asked for, and kept.
"""

from triptych.catalog.hardware import device, device_names, node, node_names
from triptych.catalog.models import RANDOM, config, model, model_names

__all__ = ["RANDOM", "config", "device", "device_names", "model", "model_names", "node", "node_names"]
