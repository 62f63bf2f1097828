"""The shape of a model: what its public `config.json` says, and what follows from that alone."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from triptych.spec.base import Spec

Positions = Literal["rotary", "learned"]


class Experts(Spec):
    """Mixture-of-experts MLP: `top_k` of `count` experts work on each token."""

    count: PositiveInt
    top_k: PositiveInt
    intermediate: PositiveInt
    """Hidden width of one expert's MLP."""
    shared_intermediate: int = Field(default=0, ge=0)
    """Hidden width of the MLP that every token passes beside its experts; 0 if there is none."""
    layers: PositiveInt
    """How many layers have experts; the others have the plain MLP."""


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
    max_context: PositiveInt
    """`max_position_embeddings`."""
    sliding_window: PositiveInt | None = None
    """Tokens that attention looks back, where all layers are windowed."""
    experts: Experts | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    """Bias of the attention output projection."""
    mlp_bias: bool = False
    norm_bias: bool = False
    """LayerNorm (weight and bias) rather than RMSNorm (weight)."""
    norms_per_layer: PositiveInt = 2
    """Norms over the hidden width in a layer (1 where attention and MLP run in parallel)."""
    qk_norm: bool = False
    """RMSNorm over each query and key head (Qwen3)."""
    head_bias: bool = False
    """Bias of the language-model head (Phi-2)."""
    embedding_width: PositiveInt | None = None
    """Width of the token embedding where it differs from `hidden` (OPT-350M, with projections)."""


class VisionModel(Spec):
    """The vision tower of a Qwen2-VL, Qwen2.5-VL or Qwen3-VL model."""

    depth: PositiveInt
    hidden: PositiveInt
    heads: PositiveInt
    intermediate: PositiveInt
    gated_mlp: bool
    patch: PositiveInt
    """Side of a patch in pixels."""
    temporal_patch: PositiveInt = 2
    channels: PositiveInt = 3
    merge: PositiveInt = 2
    """`merge` x `merge` patches become one token of the language model."""
    window: PositiveInt | None = None
    """Side in pixels of the attention window, or None where all blocks attend to the whole image."""
    full_attention_blocks: tuple[int, ...] = ()
    """Blocks that attend to the whole image where the others are windowed."""
    deepstack_blocks: tuple[int, ...] = ()
    """Blocks whose features are handed to the language model beside the last (Qwen3-VL)."""
    out_hidden: PositiveInt
    """Width of a merged embedding: the hidden width of the language model."""
    position_embeddings: int = Field(default=0, ge=0)
    """Learned positions (Qwen3-VL: 2304); 0 where positions are rotary only."""
    min_pixels: PositiveInt
    max_pixels: PositiveInt
    """Area limits of the model's image processor."""


class Model(Spec):
    """A language model, or a vision-language model if it has a vision tower."""

    name: str
    family: str
    """`model_type` of config.json."""
    text: TextModel
    vision: VisionModel | None = None
    source: str = ""
    """Where the shape comes from."""
