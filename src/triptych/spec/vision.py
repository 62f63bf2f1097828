"""The vision tower of a vision-language model: its shape, its parameters, and its image rule."""

from __future__ import annotations

import math
from typing import Self

from pydantic import Field, PositiveInt, model_validator

from triptych.spec.base import Spec, SpecError

MAX_ASPECT_RATIO = 200
"""Longer images are refused by the image processor of all Qwen vision-language models."""


class VisionModel(Spec):
    """The vision tower of a Qwen2-VL, Qwen2.5-VL or Qwen3-VL model.

    Shapes of its parts follow `modeling_qwen2_vl.py`, `modeling_qwen2_5_vl.py` and
    `modeling_qwen3_vl.py` of Hugging Face transformers.
    """

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
    norm_bias: bool = True
    """LayerNorm (weight and bias) rather than RMSNorm (Qwen2.5-VL)."""
    patch_bias: bool = False
    """Bias of the patch embedding (Qwen3-VL)."""
    min_pixels: PositiveInt
    max_pixels: PositiveInt
    """Area limits of the model's image processor."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide hidden ({self.hidden})")
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels ({self.min_pixels}) must not exceed max_pixels ({self.max_pixels})")
        for block in (*self.full_attention_blocks, *self.deepstack_blocks):
            if not 0 <= block < self.depth:
                raise ValueError(f"block {block} is none of the {self.depth} blocks of the tower")
        return self

    @property
    def patch_embedding_parameters(self) -> int:
        """Convolution over one patch, and learned positions."""
        inputs = self.channels * self.temporal_patch * self.patch**2
        return self.hidden * (inputs + self.patch_bias + self.position_embeddings)

    @property
    def block_parameters(self) -> int:
        """One transformer block: attention and MLP with biases, two norms."""
        attention = 4 * self.hidden * (self.hidden + 1)
        into = (2 if self.gated_mlp else 1) * self.intermediate * (self.hidden + 1)
        out_of = self.hidden * (self.intermediate + 1)
        return attention + into + out_of + 2 * self._norm(self.hidden)

    @property
    def merger_parameters(self) -> int:
        """All mergers: two linear layers with biases, and a norm before or after patches are joined."""
        joined = self.hidden * self.merge**2
        linears = joined * (joined + 1) + self.out_hidden * (joined + 1)
        # Qwen3-VL: the mergers of deepstack blocks normalise the joined patches, the last one each patch.
        deepstack = len(self.deepstack_blocks) * (linears + self._norm(joined))
        return linears + self._norm(self.hidden) + deepstack

    @property
    def parameters(self) -> int:
        """All parameters of the tower."""
        blocks = self.depth * self.block_parameters
        return self.patch_embedding_parameters + blocks + self.merger_parameters

    @property
    def embedding_width(self) -> int:
        """Numbers in the embedding of one token: the merged features of the last and deepstack blocks."""
        return self.out_hidden * (1 + len(self.deepstack_blocks))

    def resize(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) in pixels to which the image processor brings an image.

        Sides become multiples of `patch * merge`, the area comes within `min_pixels` and
        `max_pixels`, and the aspect ratio is kept as well as that allows (`smart_resize` of
        `image_processing_qwen2_vl.py`, Hugging Face transformers; halves round to even).

        Raises:
            SpecError: a side is not positive, or one is more than 200 times the other.
        """
        if min(width, height) < 1:
            raise SpecError("image", f"{width}x{height} has no area; give positive sides in pixels")
        if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
            raise SpecError(
                "image",
                f"{width}x{height} is more than {MAX_ASPECT_RATIO} times as long as wide, "
                "which the model refuses; crop it",
            )
        unit = self.patch * self.merge
        columns, rows = round(width / unit), round(height / unit)
        area = columns * rows * unit**2
        if area > self.max_pixels:
            shrink = math.sqrt(width * height / self.max_pixels)
            columns = max(1, math.floor(width / shrink / unit))
            rows = max(1, math.floor(height / shrink / unit))
        elif area < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (width * height))
            columns = math.ceil(width * grow / unit)
            rows = math.ceil(height * grow / unit)
        return columns * unit, rows * unit

    def patches(self, width: int, height: int) -> int:
        """Patches of an image of `width` x `height` pixels after `resize`; what the tower works on."""
        resized_width, resized_height = self.resize(width, height)
        return (resized_width // self.patch) * (resized_height // self.patch)

    def tokens(self, width: int, height: int) -> int:
        """Tokens that an image of `width` x `height` pixels takes in the language model."""
        return self.patches(width, height) // self.merge**2

    def _norm(self, width: int) -> int:
        return width * (2 if self.norm_bias else 1)
