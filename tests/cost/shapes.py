"""Models, devices and batches that the tests of cost share, built by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from triptych.policy.batch import Batch, Chunk
from triptych.policy.request import Image, Request
from triptych.spec.deployment import Parallelism, Pool, Precisions, SchedulerSpec
from triptych.spec.device import Device, Efficiency, Link, Node
from triptych.spec.model import Experts, Model, TextModel, VisionModel


def device(**changes: Any) -> Device:
    """An A100-80GB by its data sheet, with kernels that reach every peak and no overheads."""
    link = Link(name="NVLink 3", bandwidth=300e9, latency=0.0)
    sheet: dict[str, Any] = {
        "name": "A100-80GB",
        "architecture": "Ampere",
        "flops": {"bf16": 312e12, "fp16": 312e12, "int8": 624e12},
        "memory": 80e9,
        "bandwidth": 2.039e12,
        "link": link,
        "launch_overhead": 0.0,
        "iteration_overhead": 0.0,
        "idle_watts": 50.0,
        "peak_watts": 400.0,
        "dollars_per_hour": 2.0,
        "efficiency": Efficiency(matmul=1, attention=1, memory=1, network=1, source="ideal"),
        "sources": {},
    }
    return Device(**{**sheet, **changes})


REAL = device(
    launch_overhead=4e-6,
    iteration_overhead=2e-3,
    efficiency=Efficiency(matmul=0.8, attention=0.5, memory=0.85, network=0.75, source="a guess"),
    link=Link(name="NVLink 3", bandwidth=300e9, latency=3e-6),
)
"""The same with efficiencies and overheads."""


def node(topology: str = "all-to-all", devices: int = 8) -> Node:
    """A node whose wires have plain numbers: PCIe 25 GB/s and 10 us, network 50 GB/s and 20 us."""
    pcie = Link(name="PCIe", bandwidth=25e9, latency=10e-6)
    network = Link(name="InfiniBand", bandwidth=50e9, latency=20e-6)
    return Node.model_validate(
        {"name": "node", "devices": devices, "topology": topology, "pcie": pcie, "network": network}
    )


def pool(
    phases: Sequence[str] = ("prefill", "decode"), precision: dict[str, str] | None = None, **changes: Any
) -> Pool:
    """A pool; keyword arguments of parallelism go there, the others into the pool."""
    degrees = {key: changes.pop(key) for key in ("tensor", "pipeline", "data", "expert") if key in changes}
    encode_only = tuple(phases) == ("encode",)
    declared: dict[str, Any] = {
        "phases": list(phases),
        "device": "A100-80GB",
        "parallel": Parallelism(**degrees),
        "precision": Precisions.model_validate(precision or {}),
        "scheduler": SchedulerSpec(policy="encode" if encode_only else "sarathi"),
    }
    return Pool.model_validate({**declared, **changes})


def text(**changes: Any) -> TextModel:
    """A language model so small that its costs can be worked out by hand."""
    shape: dict[str, Any] = {
        "layers": 2,
        "hidden": 8,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 2,
        "intermediate": 16,
        "gated_mlp": True,
        "vocab": 32,
        "tied_embeddings": False,
        "max_context": 1024,
    }
    return TextModel(**{**shape, **changes})


TINY = Model(name="tiny", family="llama", text=text())
TINY_WINDOW = Model(name="tiny-window", family="mistral", text=text(sliding_window=16))
TINY_MIXED = Model(
    name="tiny-mixed", family="gemma3_text", text=text(layers=4, sliding_window=16, windowed_layers=3)
)
TINY_EXPERTS = Model(
    name="tiny-experts",
    family="mixtral",
    text=text(experts=Experts(count=8, top_k=2, intermediate=16, layers=2)),
)
TINY_VISION = Model(
    name="tiny-vision",
    family="qwen2_5_vl",
    text=text(),
    vision=VisionModel(
        depth=4,
        hidden=8,
        heads=2,
        intermediate=16,
        gated_mlp=True,
        patch=14,
        window=28,
        full_attention_blocks=(3,),
        out_hidden=8,
        min_pixels=784,
        max_pixels=10**6,
    ),
)

LLAMA_3_8B = Model(
    name="Llama-3-8B",
    family="llama",
    source="https://huggingface.co/meta-llama/Meta-Llama-3-8B/blob/main/config.json",
    text=TextModel(
        layers=32,
        hidden=4096,
        heads=32,
        kv_heads=8,
        head_dim=128,
        intermediate=14336,
        gated_mlp=True,
        vocab=128256,
        tied_embeddings=False,
        max_context=8192,
    ),
)
LLAMA_2_70B = Model(
    name="Llama-2-70b",
    family="llama",
    source="https://huggingface.co/meta-llama/Llama-2-70b-hf/blob/main/config.json",
    text=TextModel(
        layers=80,
        hidden=8192,
        heads=64,
        kv_heads=8,
        head_dim=128,
        intermediate=28672,
        gated_mlp=True,
        vocab=32000,
        tied_embeddings=False,
        max_context=4096,
    ),
)
QWEN3_30B_A3B = Model(
    name="Qwen3-30B-A3B",
    family="qwen3_moe",
    source="https://huggingface.co/Qwen/Qwen3-30B-A3B/blob/main/config.json",
    text=TextModel(
        layers=48,
        hidden=2048,
        heads=32,
        kv_heads=4,
        head_dim=128,
        intermediate=6144,
        gated_mlp=True,
        vocab=151936,
        tied_embeddings=False,
        max_context=40960,
        qk_norm=True,
        experts=Experts(count=128, top_k=8, intermediate=768, layers=48),
    ),
)


def request() -> Request:
    """Any request."""
    return Request(id=0, prompt_tokens=1, output_tokens=1)


def batch(
    *chunks: tuple[int, int, bool],
    decodes: int = 0,
    decode_kv: int = 0,
    padding: int = 0,
    patches: Iterable[int] = (),
) -> Batch:
    """A batch of chunks (tokens, history, last), decodes and images."""
    return Batch(
        chunks=[Chunk(request(), *chunk) for chunk in chunks],
        decodes=decodes,
        decode_kv=decode_kv,
        images=[(request(), Image(patches=n, tokens=n // 4, content=n)) for n in patches],
        padding=padding,
    )
