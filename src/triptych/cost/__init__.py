"""How long an iteration takes, what memory and transfers it needs: the roofline of a device."""

from triptych.cost.iteration import IterationCost
from triptych.cost.linear import UNBOUNDED
from triptych.cost.links import (
    between,
    embedding_transfer_bytes,
    kv_transfer_bytes,
    port,
)
from triptych.cost.memory import MemoryPlan, plan_memory
from triptych.cost.parallelism import check_parallelism
from triptych.cost.roofline import peak_flops

__all__ = [
    "UNBOUNDED",
    "IterationCost",
    "MemoryPlan",
    "between",
    "check_parallelism",
    "embedding_transfer_bytes",
    "kv_transfer_bytes",
    "peak_flops",
    "plan_memory",
    "port",
]
