"""All kernels that are tried, by the names that a `Choice` has for them; what is preferred comes first."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from triptych.engine.attention import Attention, PieceByPiece
from triptych.engine.kernels.bags import Bags
from triptych.engine.kernels.products import attend_single, in_blocks, in_float32
from triptych.engine.piece import Kernel, attend_piece

FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""By name."""
_FLASH = "flash"
_PROMPTS: Mapping[str, Kernel] = {
    _FLASH: attend_piece,
    "blocks of 64": in_blocks(64),
    "blocks of 128": in_blocks(128),
}
_WIDE = " in fp32"
_BAGS, _PRODUCTS = "embedding bags", "products"
DECODES = (_BAGS, _FLASH, _PRODUCTS)
"""Kernels of single tokens."""


def prompts(products: str) -> dict[str, Kernel]:
    """Kernels of prompts whose queries come in a format."""
    wide = {} if products == "fp32" else {name + _WIDE: in_float32(each) for name, each in _PROMPTS.items()}
    return {**_PROMPTS, **wide}


def attention(prompts_name: str, decodes_name: str) -> Attention:
    """What a choice of kernels comes to.

    Raises:
        KeyError: there is none of this name.
    """
    name = prompts_name.removesuffix(_WIDE)
    kernel = _PROMPTS[name] if name == prompts_name else in_float32(_PROMPTS[name])
    single = {_BAGS: attend_piece, _FLASH: attend_piece, _PRODUCTS: attend_single}[decodes_name]
    pieces = PieceByPiece(kernel, single, (prompts_name, decodes_name))
    return Bags(pieces) if decodes_name == _BAGS else pieces
