"""Schedulers: who is in the next batch. One policy a file."""

from triptych.policy.scheduler.base import Scheduler
from triptych.policy.scheduler.encode import EncodeScheduler
from triptych.policy.scheduler.orca import OrcaScheduler
from triptych.policy.scheduler.sarathi import SarathiScheduler
from triptych.policy.scheduler.static import StaticScheduler
from triptych.policy.scheduler.unified import UnifiedScheduler
from triptych.policy.scheduler.vllm import VllmScheduler

SCHEDULERS: dict[str, type[Scheduler]] = {
    "static": StaticScheduler,
    "orca": OrcaScheduler,
    "vllm": VllmScheduler,
    "sarathi": SarathiScheduler,
    "unified": UnifiedScheduler,
    "encode": EncodeScheduler,
}
"""Policies by the name that a deployment gives them."""

__all__ = [
    "SCHEDULERS",
    "EncodeScheduler",
    "OrcaScheduler",
    "SarathiScheduler",
    "Scheduler",
    "StaticScheduler",
    "UnifiedScheduler",
    "VllmScheduler",
]
