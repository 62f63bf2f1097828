"""Models: from a checkpoint folder, or of seeded random weights in the shape of a configuration.

`random:NAME` needs no hub: NAME is of the model catalogue, or a `config.json`. Everything else about such a
model, the code that runs it included, is that of a real checkpoint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    GenerationConfig,
    PretrainedConfig,
)
from transformers.initialization import no_init_weights

from triptych import catalog
from triptych.engine.attention import NAME
from triptych.spec.base import SpecError

RANDOM = catalog.RANDOM
_BLOCK = 1_000_003
"""Random numbers that are drawn once and laid end to end to fill a tensor. A prime, so that rows differ."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run, and what the engine asks about it."""

    name: str
    model: Any
    """The transformers module."""
    dtype: torch.dtype
    layers: int
    """That store KV."""
    kv_heads: int
    head_dim: int
    vocab_size: int
    max_context: int
    """Tokens that its positions reach."""
    eos_token_ids: tuple[int, ...]
    image_token_id: int | None
    """Stands in a prompt for one embedding of an image; None: it takes no images."""


def load(
    name: str,
    *,
    dtype: torch.dtype,
    device: str = "cpu",
    attention: str = NAME,
    seed: int = 0,
    field: str = "model",
    file: str | Path | None = None,
) -> LoadedModel:
    """Loads a model.

    Args:
        name: a checkpoint folder, or `random:` before a name of the catalogue or a `config.json`.
        dtype: of weights and activations.
        device: torch's name of it.
        attention: of the language model; a vision tower runs on SDPA.
        seed: of random weights.
        field: where the name was written, for errors.
        file: likewise.

    Raises:
        SpecError: there is no such model, or its folder does not hold all of it.
    """
    config = read_config(name, field=field, file=file)
    text = config.get_text_config()
    takes_images = hasattr(config, "vision_config")
    kind: Any = AutoModelForImageTextToText if takes_images else AutoModelForCausalLM
    kernels = {"text_config": attention, "vision_config": "sdpa"} if takes_images else attention
    try:
        if name.startswith(RANDOM):
            with no_init_weights():
                model = kind.from_config(config, dtype=dtype, attn_implementation=kernels)
            model.tie_weights()
            _fill(model, seed)
            model.to(device)
        else:
            model = _from_checkpoint(kind, name, config, dtype, device, kernels)
    except (OSError, ValueError, KeyError) as error:
        problem = f"{name} cannot be loaded: {str(error).splitlines()[0]}"
        raise SpecError(field, problem, file=file) from None
    heads = text.num_attention_heads
    return LoadedModel(
        name=name,
        model=model.eval().requires_grad_(False),
        dtype=dtype,
        layers=text.num_hidden_layers,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        vocab_size=text.vocab_size,
        max_context=text.max_position_embeddings,
        eos_token_ids=_stop_tokens(config, name),
        image_token_id=config.image_token_id if takes_images else None,
    )


def read_config(name: str, *, field: str = "model", file: str | Path | None = None) -> PretrainedConfig:
    """The configuration that a name stands for, as transformers has it.

    Raises:
        SpecError: there is none.
    """
    try:
        if name.startswith(RANDOM):
            fields = dict(catalog.config(name.removeprefix(RANDOM), field=field, file=file))
            return _with_image_positions(AutoConfig.for_model(**fields))
        if not Path(name).is_dir():
            problem = f"{name} is no checkpoint folder; name one, or random:{name} for random weights"
            raise SpecError(field, problem, file=file)
        config: PretrainedConfig = AutoConfig.from_pretrained(name, local_files_only=True)
        return config
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"{name} cannot be read: {str(error).splitlines()[0]}"
        raise SpecError(field, problem, file=file) from None


def _from_checkpoint(
    kind: Any, folder: str, config: PretrainedConfig, dtype: torch.dtype, device: str, kernels: Any
) -> Any:
    """The model with the weights of a folder, which are mapped rather than read.

    Raises:
        ValueError: weights are missing.
    """
    model, found = kind.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        device_map=None if device == "cpu" else device,
        attn_implementation=kernels,
        local_files_only=True,
        output_loading_info=True,
    )
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise ValueError(f"{len(missing)} weights are missing, {missing[0]} among them")
    return model


def _fill(model: nn.Module, seed: int) -> None:
    """Random weights under which what comes out depends on all that went in.

    Matrices keep the size of what passes through them (variance 1 / inputs) and embeddings are small beside
    what the layers add; with the usual small weights a deep random model says the same token for ever.
    """
    numbers = torch.rand(_BLOCK, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    offset = 0
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            scale = math.sqrt(3 / math.prod(weight.shape[1:])) if weight.dim() > 1 else 0.05
            if "embed" in name or name.endswith("lm_head.weight"):
                scale = 0.05
            _tile(weight, numbers.roll(offset) * scale)
            offset += 7919  # so that equal shapes differ


def _tile(weight: torch.Tensor, numbers: torch.Tensor) -> None:
    flat = weight.view(-1)
    numbers = numbers.to(flat.dtype)
    for first in range(0, flat.numel(), _BLOCK):
        part = flat[first : first + _BLOCK]
        part.copy_(numbers[: part.numel()])


def _with_image_positions(config: PretrainedConfig) -> PretrainedConfig:
    """Says how rotary dimensions are shared by time, height and width, which shapes alone leave out.

    As in the published configurations: Qwen2-VL and Qwen2.5-VL give them 1/4, 3/8 and 3/8 of half the head,
    Qwen3-VL 3/8, 5/16 and 5/16.
    """
    if not hasattr(config, "vision_config"):
        return config
    text = config.get_text_config()
    half = (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads) // 2
    side = half * 5 // 16 if config.model_type.startswith("qwen3") else half * 3 // 8
    text.rope_parameters = {**text.rope_parameters, "mrope_section": [half - 2 * side, side, side]}
    return config


def _stop_tokens(config: PretrainedConfig, name: str) -> tuple[int, ...]:
    """Tokens that end an answer: those of the configuration and of `generation_config.json`."""
    sources: list[Any] = [config, config.get_text_config()]
    if Path(name, "generation_config.json").is_file():
        sources.append(GenerationConfig.from_pretrained(name, local_files_only=True))
    tokens: dict[int, None] = {}
    for source in sources:
        found = getattr(source, "eos_token_id", None)
        if found is not None:
            tokens |= dict.fromkeys(found if isinstance(found, list) else [found])
    return tuple(tokens)
