"""A vision tower under a parallelism: the operators that one device runs in one iteration."""

from __future__ import annotations

from dataclasses import replace

from triptych.cost.collectives import Exchanges
from triptych.cost.operators import (
    Formats,
    Operator,
    attention,
    elementwise,
    matmul,
    network,
    no_weights,
)
from triptych.spec.deployment import Parallelism
from triptych.spec.model import VisionModel


def vision_operators(
    model: VisionModel, parallel: Parallelism, formats: Formats, exchanges: Exchanges
) -> list[Operator]:
    """The vision tower over the patches of all images, split over `tensor` like the language model."""
    tp, depth = parallel.tensor, model.depth
    hidden, head_dim = model.hidden, model.hidden // model.heads
    heads, width = model.heads / tp, model.hidden / tp
    inner = model.intermediate / tp
    gates = 2 if model.gated_mlp else 1
    full = len(model.full_attention_blocks) if model.window is not None else depth
    pixels = model.channels * model.temporal_patch * model.patch**2
    reduce, f = exchanges.tensor_reduce, formats

    def blocks(name: str, inputs: float, outputs: float) -> Operator:
        return matmul(name, "vision", f, inputs, outputs, over="patches", times=depth, bias=True)

    def plain(name: str, touched: float, times: int) -> Operator:
        return elementwise(name, "vision", f, touched, over="patches", times=times)

    operators = [
        matmul("patch embedding", "vision", f, pixels, hidden, over="patches"),
        plain("vision norm", 2 * hidden, 2 * depth),
        blocks("vision qkv", hidden, 3 * width),
        plain("vision rope", 4 * width, depth),
        *_vision_attention(f, heads, head_dim, full, depth - full),
        blocks("vision attention output", width, hidden),
        plain("vision residual add", 3 * hidden, 2 * depth),
        blocks("vision mlp up", hidden, gates * inner),
        plain("vision mlp activation", (gates + 1) * inner, depth),
        blocks("vision mlp down", inner, hidden),
        *network("vision all-reduce", "vision", f, reduce, hidden, over="patches", times=2 * depth),
        *_mergers(model, parallel, f, exchanges),
    ]
    positions = elementwise(
        "vision positions",
        "vision",
        f,
        3 * hidden,
        over="patches",
        weights=model.position_embeddings * hidden,
    )
    return [*operators, replace(positions, share=no_weights)] if positions.weights else operators


def _vision_attention(
    formats: Formats, heads: float, head_dim: int, full: int, windowed: int
) -> list[Operator]:
    """Blocks that attend to the whole image, and those that attend within windows."""
    streamed = 2 * heads * head_dim
    kinds = [("full", full), ("window", windowed)]
    return [
        attention(
            f"vision {over} attention",
            "vision",
            formats,
            heads=heads,
            head_dim=head_dim,
            over="full" if over == "full" else "window",
            times=times,
            streamed=streamed,
        )
        for over, times in kinds
        if times
    ]


def _mergers(
    model: VisionModel, parallel: Parallelism, formats: Formats, exchanges: Exchanges
) -> list[Operator]:
    """Merge x merge patches are joined and projected to one token, once more for each deepstack block."""
    patches = model.merge**2
    joined, times = model.hidden * patches, 1 + len(model.deepstack_blocks)

    def layer(name: str, inputs: float, outputs: float) -> Operator:
        return matmul(
            name,
            "vision",
            formats,
            inputs,
            outputs,
            over="patches",
            times=times,
            bias=True,
            rows=1 / patches,
        )

    return [
        layer("merger up", joined, joined / parallel.tensor),
        layer("merger down", joined / parallel.tensor, model.out_hidden),
        *network(
            "merger all-reduce",
            "vision",
            formats,
            exchanges.tensor_reduce,
            model.out_hidden / patches,
            over="patches",
            times=times,
        ),
    ]
