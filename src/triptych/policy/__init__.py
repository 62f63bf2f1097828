"""The heart: who is batched, where, and in which memory. Knows no clock, no tensor and no socket."""

from triptych.policy.batch import Batch, Chunk
from triptych.policy.decodes import DecodeSet
from triptych.policy.embeddings import EmbeddingCache
from triptych.policy.kvcache import KVCache
from triptych.policy.request import Image, Phase, Request, Status
from triptych.policy.router import ROUTERS, Router
from triptych.policy.scheduler import (
    SCHEDULERS,
    EncodeScheduler,
    OrcaScheduler,
    SarathiScheduler,
    Scheduler,
    StaticScheduler,
    UnifiedScheduler,
    VllmScheduler,
)

__all__ = [
    "ROUTERS",
    "SCHEDULERS",
    "Batch",
    "Chunk",
    "DecodeSet",
    "EmbeddingCache",
    "EncodeScheduler",
    "Image",
    "KVCache",
    "OrcaScheduler",
    "Phase",
    "Request",
    "Router",
    "SarathiScheduler",
    "Scheduler",
    "StaticScheduler",
    "Status",
    "UnifiedScheduler",
    "VllmScheduler",
]
