"""Fits a model to the CPU at hand: chooses kernels and formats, and lays its weights out for them."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import psutil
import torch
from torch import nn

from triptych.catalog import machine
from triptych.engine.attention import Attention
from triptych.engine.kernels.candidates import FORMATS, attention
from triptych.engine.kernels.choice import Choice, Sizes, choose
from triptych.engine.kernels.linear import can_pack, pack
from triptych.engine.kernels.trial import TorchTrial
from triptych.engine.loader import LoadedModel

logger = logging.getLogger(__name__)

_BATCH, _CHUNK, _CONTEXT = 16, 512, 512
"""The most that is tried: beyond, the order of candidates stays, and small differences between deployments
make no other choice."""
_SHARE = 0.8
"""Share of the free memory that wider formats may fill together with all else."""
_WIDTHS = 4
"""Shapes of linear layers that are tried, the largest."""


@dataclass(frozen=True)
class Fitted:
    """How a model runs on the CPU."""

    choice: Choice
    attention: Attention
    kv: torch.dtype
    """Format of the KV pool."""


def fit(model: LoadedModel, *, batch: int, chunk: int, places: int, reserved: float = 0.0) -> Fitted:
    """Chooses, and packs the model in place.

    Args:
        model: as loaded.
        batch: sequences that may decode at once.
        chunk: prompt tokens of an iteration.
        places: tokens that the KV pool will hold.
        reserved: bytes that something else will take.

    Raises:
        ValueError: nothing computes rightly here.
    """
    sizes = _sizes(model, batch, chunk, places, reserved)
    choice = choose(sizes, TorchTrial(sizes))
    logger.info("kernels: %s", choice)
    pack(model.model, FORMATS[choice.products])
    return Fitted(choice, attention(choice.prompts, choice.decodes), FORMATS[choice.kv])


def _sizes(model: LoadedModel, batch: int, chunk: int, places: int, reserved: float) -> Sizes:
    text = model.model.config.get_text_config()
    kv_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    shared = max(1, text.num_attention_heads // kv_heads)
    own = next(name for name, dtype in FORMATS.items() if dtype is model.dtype)
    context = _power(min(_CONTEXT, model.max_context, places))
    batch = _power(max(1, min(_BATCH, batch, places // context)))
    widths = {
        (module.in_features, module.out_features)
        for module in model.model.modules()
        if type(module) is nn.Linear and module.out_features != model.vocab_size
    }
    largest = sorted(widths, key=lambda shape: shape[0] * shape[1])[-_WIDTHS:]
    kv = 2.0 * model.layers * model.kv_heads * model.head_dim * places
    numbers = sum(weight.numel() for weight in model.model.parameters())
    free = _SHARE * min(psutil.virtual_memory().available, machine.memory()) - reserved
    narrow = model.dtype.itemsize
    wide_weights = can_pack(model.model) and 4 * numbers + narrow * kv <= free
    wide_kv = (4 * numbers if wide_weights else 0) + 4 * kv <= free
    return Sizes(
        own=own,
        layers=model.layers,
        heads=model.kv_heads * shared,
        kv_heads=model.kv_heads,
        head_dim=model.head_dim,
        widths=tuple(largest),
        batch=batch,
        chunk=_power(max(1, min(_CHUNK, chunk, model.max_context))),
        context=context,
        wide_weights=wide_weights,
        wide_kv=wide_kv,
    )


def _power(count: int) -> int:
    """The largest power of two that is not more."""
    return 1 << (count.bit_length() - 1)
