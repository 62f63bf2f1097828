"""The shape of a model: what its public `config.json` says, and what follows from that alone."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from triptych.spec.base import Spec
from triptych.spec.device import BYTES_PER_ELEMENT, Precision
from triptych.spec.vision import VisionModel

__all__ = ["Experts", "Model", "Positions", "TextModel", "VisionModel"]

Positions = Literal["rotary", "learned"]


class Experts(Spec):
    """Mixture-of-experts MLP: `top_k` of `count` experts work on each token."""

    count: PositiveInt
    top_k: PositiveInt
    intermediate: PositiveInt
    """Hidden width of one expert's MLP."""
    shared_intermediate: int = Field(default=0, ge=0)
    """Hidden width of the MLP that every token passes beside its experts; 0 if there is none."""
    bias: bool = False
    """Of their matrices (gpt-oss)."""
    shared_gate: bool = True
    """Whether a gate weighs that MLP's output (Qwen2-MoE)."""
    router_bias: bool = False
    """Whether the router adds something to the score of each expert (gpt-oss, ERNIE 4.5)."""
    layers: PositiveInt
    """How many layers have experts; the others have the plain MLP."""

    @model_validator(mode="after")
    def _enough_experts(self) -> Self:
        if self.top_k > self.count:
            raise ValueError(f"top_k ({self.top_k}) must not exceed count ({self.count})")
        return self


class TextModel(Spec):
    """A decoder-only transformer."""

    layers: PositiveInt
    hidden: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt
    head_dim: PositiveInt
    intermediate: PositiveInt
    """Hidden width of the plain MLP."""
    gated_mlp: bool
    """SwiGLU-like (three matrices) rather than two matrices."""
    vocab: PositiveInt
    tied_embeddings: bool
    positions: Positions = "rotary"
    spare_positions: int = Field(default=0, ge=0)
    """Rows of the table of learned positions that no token takes (OPT)."""
    max_context: PositiveInt
    """Tokens that positions reach: `max_position_embeddings`, or what scaling makes of it."""
    sliding_window: PositiveInt | None = None
    """Tokens that attention looks back in layers with a window."""
    windowed_layers: PositiveInt | None = None
    """How many layers have the window; None: all."""
    experts: Experts | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    """Bias of the attention output projection."""
    mlp_bias: bool = False
    """Of the plain MLP, and of shared experts."""
    activation_parameters: int = Field(default=0, ge=0)
    """Of the activation function in a layer's plain MLP (2 in Apertus)."""
    norm_bias: bool = False
    """LayerNorm (weight and bias) rather than RMSNorm (weight)."""
    norm_weight: bool = True
    """Whether norms over the hidden width have a weight (OLMo's have none)."""
    norms_per_layer: PositiveInt = 2
    """Norms over the hidden width in a layer (1 where attention and MLP share it, 4 in Gemma 3)."""
    final_norm: bool = True
    """Norm after the last layer (OPT-350M has none)."""
    qk_norm: bool = False
    """Norm over each query and key head (Qwen3), or over all of them together (OLMo 2)."""
    qk_norm_shared: bool = True
    """Whether heads share that norm's weights."""
    sinks: bool = False
    """A score in each head that takes part in the softmax's denominator alone (gpt-oss)."""
    head_bias: bool = False
    """Bias of the language-model head (Phi-2)."""
    embedding_width: PositiveInt | None = None
    """Width of the token embedding where it differs from `hidden` (OPT-350M, with projections)."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads ({self.kv_heads}) must divide heads ({self.heads})")
        if self.experts is not None and self.experts.layers > self.layers:
            raise ValueError(f"experts.layers ({self.experts.layers}) must not exceed layers ({self.layers})")
        if self.windowed_layers is not None:
            if self.sliding_window is None:
                raise ValueError("windowed_layers needs sliding_window; give it a value")
            if self.windowed_layers > self.layers:
                problem = f"({self.windowed_layers}) must not exceed layers ({self.layers})"
                raise ValueError(f"windowed_layers {problem}")
        return self

    @property
    def windowed_share(self) -> float:
        """Share of the layers whose attention has a window."""
        if self.sliding_window is None:
            return 0.0
        return 1.0 if self.windowed_layers is None else self.windowed_layers / self.layers

    @property
    def expert_layers(self) -> int:
        """Layers whose MLP is a mixture of experts."""
        return self.experts.layers if self.experts else 0

    @property
    def dense_layers(self) -> int:
        """Layers with the plain MLP."""
        return self.layers - self.expert_layers

    @property
    def attention_parameters(self) -> int:
        """Attention of one layer: query, key, value and output matrices, biases, head norms, sinks."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        matrices = self.hidden * (queries + 2 * keys) + queries * self.hidden
        biases = (queries + 2 * keys if self.qkv_bias else 0) + self.hidden * self.output_bias
        return matrices + biases + self.head_norm_parameters + self.heads * self.sinks

    @property
    def head_norm_parameters(self) -> int:
        """Norms of queries and keys in one layer; 0 where there are none."""
        if not self.qk_norm:
            return 0
        return self.head_dim * (2 if self.qk_norm_shared else self.heads + self.kv_heads)

    @property
    def mlp_parameters(self) -> int:
        """The plain MLP of one layer."""
        return self._mlp(self.intermediate, self.mlp_bias) + self.activation_parameters

    @property
    def expert_parameters(self) -> int:
        """One routed expert; 0 where there are none."""
        return self._mlp(self.experts.intermediate, self.experts.bias) if self.experts else 0

    @property
    def router_parameters(self) -> int:
        """The router of one expert layer; 0 where there are no experts."""
        return (self.hidden + self.experts.router_bias) * self.experts.count if self.experts else 0

    @property
    def shared_expert_parameters(self) -> int:
        """The shared expert of one expert layer and its gate, if any; 0 where there is none."""
        if self.experts is None or not self.experts.shared_intermediate:
            return 0
        gate = self.hidden * self.experts.shared_gate
        return self._mlp(self.experts.shared_intermediate, self.mlp_bias) + gate

    @property
    def norm_parameters(self) -> int:
        """Norms over the hidden width of one layer."""
        return self.norms_per_layer * self.one_norm_parameters

    @property
    def one_norm_parameters(self) -> int:
        """One norm over the hidden width."""
        return self.hidden * (self.norm_weight + self.norm_bias)

    @property
    def embedding_parameters(self) -> int:
        """Token embedding, learned positions, and the projections of a narrower embedding."""
        width = self.embedding_width or self.hidden
        positions = self.max_context + self.spare_positions
        learned = positions * self.hidden if self.positions == "learned" else 0
        projections = 2 * width * self.hidden if self.embedding_width else 0
        return self.vocab * width + learned + projections

    @property
    def head_parameters(self) -> int:
        """The language-model head, of which a tied embedding counts as no part."""
        width = 0 if self.tied_embeddings else self.embedding_width or self.hidden
        return self.vocab * (width + self.head_bias)

    @property
    def parameters(self) -> int:
        """All parameters; a tied embedding counts once."""
        return self._with_experts(self.experts.count if self.experts else 0)

    @property
    def active_parameters(self) -> int:
        """Parameters that work on one token: of the routed experts only `top_k`."""
        return self._with_experts(self.experts.top_k if self.experts else 0)

    def _mlp(self, width: int, bias: bool) -> int:
        into = (2 if self.gated_mlp else 1) * width
        biases = into + self.hidden if bias else 0
        return self.hidden * into + width * self.hidden + biases

    def _with_experts(self, experts: int) -> int:
        mixture = experts * self.expert_parameters + self.router_parameters + self.shared_expert_parameters
        return (
            self.embedding_parameters
            + self.layers * (self.attention_parameters + self.norm_parameters)
            + self.dense_layers * self.mlp_parameters
            + self.expert_layers * mixture
            + (self.one_norm_parameters if self.final_norm else 0)
            + self.head_parameters
        )


class Model(Spec):
    """A language model, or a vision-language model if it has a vision tower."""

    name: str
    family: str
    """`model_type` of config.json."""
    text: TextModel
    vision: VisionModel | None = None
    source: str = ""
    """Where the shape comes from: a file, or the page on the hub."""

    @property
    def parameters(self) -> int:
        """All parameters, of the language model and the vision tower."""
        return self.text.parameters + (self.vision.parameters if self.vision else 0)

    @property
    def active_parameters(self) -> int:
        """Parameters that work on one token of the language model; the vision tower's do not."""
        return self.text.active_parameters

    def kv_bytes_per_token(self, precision: Precision) -> float:
        """Bytes of keys and values that one token leaves in all layers together."""
        text = self.text
        elements = 2 * text.layers * text.kv_heads * text.head_dim
        return elements * BYTES_PER_ELEMENT[precision]

    def embedding_bytes_per_token(self, precision: Precision) -> float:
        """Bytes of one image token's embedding, deepstack features included; 0 without a tower."""
        width = self.vision.embedding_width if self.vision else 0
        return width * BYTES_PER_ELEMENT[precision]
