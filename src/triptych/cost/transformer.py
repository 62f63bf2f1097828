"""A language model under a parallelism: the operators that one device runs in one iteration."""

from __future__ import annotations

from dataclasses import replace

from triptych.cost.collectives import Exchanges
from triptych.cost.operators import (
    Formats,
    Operator,
    attention,
    elementwise,
    expert_share,
    matmul,
    network,
    no_weights,
)
from triptych.spec.deployment import Parallelism
from triptych.spec.model import Experts, TextModel


def text_operators(
    model: TextModel, parallel: Parallelism, formats: Formats, exchanges: Exchanges
) -> list[Operator]:
    """The language model, in the order in which a token passes it.

    Heads, MLP widths and vocabulary are split over `tensor`; where there are fewer KV heads than that,
    each device keeps one. Norms and the router are held by every device.
    """
    tp = parallel.tensor
    hidden, dim = model.hidden, model.head_dim
    heads, kv_heads = model.heads / tp, max(1.0, model.kv_heads / tp)
    queries, keys_values = heads * dim, 2 * kv_heads * dim
    head_norms = 2 * dim if model.qk_norm_shared else queries + keys_values / 2
    gates = 2 if model.gated_mlp else 1
    inner = model.intermediate / tp
    norm = model.one_norm_parameters
    reduce = exchanges.tensor_reduce
    f = formats
    return [
        *_embedding(model, parallel, f, exchanges),
        elementwise("norm", "layer", f, 2 * hidden, weights=norm, times=model.norms_per_layer),
        matmul("qkv", "layer", f, hidden, queries + keys_values, bias=model.qkv_bias),
        elementwise(
            "rope and KV write",
            "layer",
            f,
            2 * (queries + keys_values),
            weights=head_norms if model.qk_norm else 0,
        ),
        attention(
            "prefill attention",
            "layer",
            f,
            heads=heads,
            head_dim=dim,
            over="prefill",
            cached=keys_values,
        ),
        attention(
            "decode attention",
            "layer",
            f,
            heads=heads,
            head_dim=dim,
            over="decode",
            cached=keys_values,
        ),
        matmul("attention output", "layer", f, queries, hidden, bias=model.output_bias),
        *network("attention all-reduce", "layer", f, reduce, hidden),
        elementwise("residual add", "layer", f, 3 * hidden, times=2),
        matmul("mlp up", "dense_layer", f, hidden, gates * inner, bias=model.mlp_bias),
        elementwise("mlp activation", "dense_layer", f, (gates + 1) * inner),
        matmul("mlp down", "dense_layer", f, inner, hidden, bias=model.mlp_bias),
        *network("mlp all-reduce", "dense_layer", f, reduce, hidden),
        *(_experts(model, model.experts, parallel, f, exchanges) if model.experts else []),
        *_head(model, parallel, f, exchanges),
    ]


def _embedding(
    model: TextModel, parallel: Parallelism, formats: Formats, exchanges: Exchanges
) -> list[Operator]:
    """The lookup reads its tokens' rows; with tied embeddings on one stage the table is the head's."""
    width = model.embedding_width or model.hidden
    shared = model.tied_embeddings and parallel.pipeline == 1
    rows = 0.0 if shared else model.vocab * width / parallel.tensor
    positions = model.max_context * model.hidden if model.positions == "learned" else 0
    lookup = elementwise("embedding", "embedding", formats, 2 * width, weights=rows + positions)
    projection = matmul("embedding projection", "embedding", formats, width, model.hidden)
    return [
        replace(lookup, share=no_weights),
        *network("embedding all-reduce", "embedding", formats, exchanges.tensor_reduce, width),
        *([projection] if width != model.hidden else []),
    ]


def _experts(
    model: TextModel,
    experts: Experts,
    parallel: Parallelism,
    formats: Formats,
    exchanges: Exchanges,
) -> list[Operator]:
    """Experts lie spread over all tensor x data devices, which work on the tokens of all data ranks.

    `expert` groups of devices hold whole experts each, and within a group every expert is sharded: so the
    FLOP and the weights of a device do not depend on `expert`, only its activations and messages do.
    Tokens are taken to be spread evenly over experts.
    """
    devices = parallel.tensor * parallel.data
    groups = parallel.expert
    shards = devices / groups
    inner = experts.intermediate / shards
    hidden, f = model.hidden, formats
    gates = 2 if model.gated_mlp else 1
    rows = experts.top_k / groups
    held = experts.count / groups
    share = expert_share(experts.count, experts.top_k)
    shared_inner = experts.shared_intermediate / parallel.tensor

    def of_experts(name: str, inputs: float, outputs: float) -> Operator:
        one = matmul(name, "expert_layer", f, inputs, outputs, over="pooled", rows=rows)
        return replace(
            one,
            weights=one.weights * held,
            share=share,
            experts=experts.count,
            top_k=experts.top_k,
            groups=groups,
        )

    operators = [
        matmul("router", "expert_layer", f, hidden, experts.count, wide=True),
        *network(
            "expert dispatch",
            "expert_layer",
            f,
            exchanges.expert_dispatch,
            _message(model, experts, parallel),
            over="largest",
        ),
        of_experts("experts up", hidden, gates * inner),
        elementwise("experts activation", "expert_layer", f, rows * (gates + 1) * inner, over="pooled"),
        of_experts("experts down", inner, hidden),
        *network(
            "expert combine",
            "expert_layer",
            f,
            exchanges.expert_combine,
            _message(model, experts, parallel),
            over="largest",
        ),
    ]
    if shared_inner:
        operators += [
            matmul("shared expert up", "expert_layer", f, hidden, gates * shared_inner),
            elementwise("shared expert activation", "expert_layer", f, (gates + 1) * shared_inner),
            matmul("shared expert down", "expert_layer", f, shared_inner, hidden),
        ]
    if shared_inner and experts.shared_gate:
        operators.append(matmul("shared expert gate", "expert_layer", f, hidden, 1, wide=True))
    return [
        *operators,
        *network("experts all-reduce", "expert_layer", f, exchanges.tensor_reduce, hidden),
    ]


def _message(model: TextModel, experts: Experts, parallel: Parallelism) -> float:
    """Activations that one device exchanges per token of its data rank, to reach the experts.

    All-gather: all ranks' tokens, as if all had as many. All-to-all: the device's share of its rank's
    tokens, once to each device of each group that holds one of a token's experts.
    """
    if parallel.expert == 1:
        return float(model.hidden * parallel.data)
    groups = parallel.expert
    reached = groups * (1.0 - (1.0 - 1.0 / groups) ** experts.top_k)
    copies = reached * parallel.tensor * parallel.data / groups
    return model.hidden * copies / parallel.tensor


def _head(model: TextModel, parallel: Parallelism, formats: Formats, exchanges: Exchanges) -> list[Operator]:
    width = model.embedding_width or model.hidden
    vocab = model.vocab / parallel.tensor
    f = formats
    norm = model.one_norm_parameters
    projection = matmul("head projection", "head", f, model.hidden, width)
    return [
        *([elementwise("final norm", "head", f, 2 * model.hidden, weights=norm)] if model.final_norm else []),
        *([projection] if width != model.hidden else []),
        matmul("head", "head", f, width, vocab, over="sampled", bias=model.head_bias, wide=True),
        *network("logits gather", "head", f, exchanges.tensor_gather, model.vocab, over="sampled"),
        # Logits are read and probabilities written in 32 bits, whatever the activations are.
        replace(elementwise("sampler", "head", f, 0, over="sampled"), traffic=8.0 * model.vocab),
    ]
