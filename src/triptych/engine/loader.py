"""Models: from a checkpoint folder, or of seeded random weights in the shape of a configuration.

`random:NAME` needs no hub: NAME is of the model catalogue, or a `config.json`. Everything else about such a
model, the code that runs it included, is that of a real checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    GenerationConfig,
    PretrainedConfig,
)
from transformers.initialization import no_init_weights
from transformers.utils.quantization_config import Mxfp4Config

from triptych import catalog
from triptych.engine.attention import NAME
from triptych.engine.random_weights import fill
from triptych.engine.servable import check_checkpoint
from triptych.spec.base import SpecError
from triptych.spec.hf_families.context import max_context, ropes, scaling
from triptych.spec.hf_fields import Fields

RANDOM = catalog.RANDOM
_LAYERS = {"full_attention", "sliding_attention"}
"""Kinds of layers that paged attention is for; a model may mix them with others."""
_FAULTS = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, StrictDataclassError)
"""What transformers raises where a configuration or a checkpoint is wrong."""


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
    """Tokens that its positions reach, with the frequencies that they begin with."""
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
        SpecError: there is no such model, it has layers other than attention, or its folder does not hold all
            of it.
    """
    config = read_config(name, field=field, file=file)
    text = config.get_text_config()
    others = set(getattr(text, "layer_types", None) or ()) - _LAYERS
    if others:
        problem = f"{name} has layers with {min(others)}, which cannot be run; choose another model"
        raise SpecError(field, problem, file=file)
    takes_images = hasattr(config, "vision_config")
    kind: Any = AutoModelForImageTextToText if takes_images else AutoModelForCausalLM
    # Experts run by grouped_mm, the choice of transformers: for the few tokens of decodes quicker on the CPU
    # than a loop over experts, and unlike batched_mm it copies no weights.
    kernels = {"text_config": attention, "vision_config": "sdpa"} if takes_images else attention
    with _one_line(f"{name} cannot be loaded", field, file):
        if name.startswith(RANDOM):
            with no_init_weights():
                model = kind.from_config(config, dtype=dtype, attn_implementation=kernels)
            model.tie_weights()
            fill(model.to(device), seed)  # there: a GPU writes its memory many times faster than the CPU
        else:
            model = _from_checkpoint(kind, name, config, dtype, device, kernels)
        stop_tokens = _stop_tokens(config, name)
    heads = text.num_attention_heads
    return LoadedModel(
        name=name,
        model=model.eval().requires_grad_(False),
        dtype=dtype,
        layers=text.num_hidden_layers,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        vocab_size=text.vocab_size,
        max_context=_reach(text),
        eos_token_ids=stop_tokens,
        image_token_id=config.image_token_id if takes_images else None,
    )


def read_config(name: str, *, field: str = "model", file: str | Path | None = None) -> PretrainedConfig:
    """The configuration that a name stands for, as transformers has it.

    Raises:
        SpecError: there is none.
    """
    if name.startswith(RANDOM):
        fields = dict(catalog.config(name.removeprefix(RANDOM), field=field, file=file))
        if fields.get("model_type") not in CONFIG_MAPPING:
            problem = f"{name} is of a kind that transformers cannot run; choose another model"
            raise SpecError(field, problem, file=file)
        with _one_line(f"{name} cannot be read", field, file):
            return _with_image_positions(AutoConfig.for_model(**fields))
    check_checkpoint(name, field=field, file=file)
    with _one_line(f"{name} cannot be read", field, file):
        config: PretrainedConfig = AutoConfig.from_pretrained(name, local_files_only=True)
    return config


@contextmanager
def _one_line(problem: str, field: str, file: str | Path | None) -> Iterator[None]:
    """Turns what transformers raises into one line."""
    try:
        yield
    except _FAULTS as error:
        raise SpecError(field, f"{problem}: {shorten(str(error), 200)}", file=file) from None


def _from_checkpoint(
    kind: Any, folder: str, config: PretrainedConfig, dtype: torch.dtype, device: str, kernels: Any
) -> Any:
    """The model with the weights of a folder, which are mapped rather than read.

    Raises:
        ValueError: weights are missing, or of another shape than the configuration has.
    """
    stored: dict[str, Any] = getattr(config, "quantization_config", None) or {}
    # Weights in MXFP4 (gpt-oss) become what the plan has memory for.
    whole = (
        {"quantization_config": Mxfp4Config(dequantize=True)} if stored.get("quant_method") == "mxfp4" else {}
    )
    model, found = kind.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        attn_implementation=kernels,
        local_files_only=True,
        ignore_mismatched_sizes=True,  # refused below, where it is known which
        output_loading_info=True,
        **whole,
    )
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise ValueError(f"{len(missing)} weights are missing, {missing[0]} among them")
    if found["mismatched_keys"]:
        name, there, wanted = sorted(found["mismatched_keys"])[0]
        raise ValueError(f"{name} has shape {list(there)}, config.json asks for {list(wanted)}")
    return model.to(device)  # `device_map` would do it too, but with a package more (accelerate)


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
    text.rope_parameters = {"mrope_section": [half - 2 * side, side, side], **text.rope_parameters}
    return config


def _reach(text: PretrainedConfig) -> int:
    """Tokens of the longest sequence: as predicted, but for two kinds of scaling.

    LongRoPE and dynamic scaling turn all tokens of a sequence by other frequencies once it is longer than the
    model was first trained for. The tokens of a batch share theirs, so longer sequences are not taken.
    """
    if not getattr(text, "rope_parameters", None):
        return int(text.max_position_embeddings)
    fields = Fields(text.to_dict())
    kinds = [(scaling(rope), rope) for rope in ropes(fields)]
    positions = fields.count("max_position_embeddings")
    limits = [rope.count("original_max_position_embeddings") for kind, rope in kinds if kind == "longrope"]
    limits += [positions for kind, _ in kinds if kind == "dynamic"]
    return min([max_context(fields), *limits])


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
