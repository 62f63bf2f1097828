"""What is read of a configuration has as many parameters as the model that transformers builds from it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PretrainedConfig,
)

from triptych import catalog
from triptych.spec.hf_config import model_from_config
from triptych.spec.hf_families import FAMILIES
from triptych.spec.model import Model

from . import tiny

ELSEWHERE = {"internlm", "internlm2", "internlm3", "qwen"}
"""Families whose code transformers does not have, or not as they were published."""
INCOMPLETE = {"dots1", "glm4_moe", "hunyuan_v1_dense", "ministral"}
"""Whose class makes no model without a number of experts or the width of a head."""
DEFAULTS = sorted(FAMILIES.keys() - ELSEWHERE - INCOMPLETE - {*tiny.IMAGE_FAMILIES})
PUBLISHED = (
    *("opt-350m", "Mixtral-8x7B", "Qwen2.5-VL-7B", "Qwen3-VL-30B-A3B", "phi-2"),
    *("gpt-oss-20b", "gpt-oss-120b", "gemma-2-9b", "gemma-2-27b"),
)
BIASES = ("attention_bias", "mlp_bias", "use_bias", "attention_out_bias")


def counted(config: PretrainedConfig) -> int:
    """Parameters of the model that transformers builds, without memory for them."""
    takes_images = hasattr(config, "vision_config")
    kind: Any = AutoModelForImageTextToText if takes_images else AutoModelForCausalLM
    with torch.device("meta"):
        model = kind.from_config(config, dtype=torch.bfloat16)
    model.tie_weights()
    return sum(weight.numel() for weight in model.parameters())


def windowed(config: PretrainedConfig) -> int:
    """Layers with a window, as transformers counts them."""
    text = config.get_text_config()
    if not getattr(text, "sliding_window", None):
        return 0
    kinds = getattr(text, "layer_types", None) or ["sliding_attention"] * text.num_hidden_layers
    return kinds.count("sliding_attention")


def check(fields: dict[str, Any], config: PretrainedConfig) -> None:
    model = model_from_config(fields, "tiny")
    assert model.parameters == counted(config)
    assert round(model.text.windowed_share * model.text.layers) == windowed(config)


def test_every_family_that_transformers_has_is_tried_and_listed() -> None:
    assert {*tiny.ALL, *ELSEWHERE} == {*FAMILIES}
    listed = (Path(__file__).parents[2] / "docs/engine.md").read_text(encoding="utf-8")
    assert [name for name in tiny.ALL if f"`{name}`" not in listed] == []


@pytest.mark.parametrize("name", tiny.ALL)
@given(data=st.data())
@settings(max_examples=4, deadline=None)
def test_it_has_the_parameters_of_the_model(name: str, data: st.DataObject) -> None:
    fields = {**tiny.ALL[name], **data.draw(sizes(name))}
    check(fields, AutoConfig.for_model(**fields))


@st.composite
def sizes(draw: st.DrawFn, name: str) -> dict[str, Any]:
    """Other layers, biases and rules, where the family has such fields."""
    known = tiny.ALL[name]
    layers = draw(st.integers(2, 7))
    fields: dict[str, Any] = {"n_layer" if "n_layer" in known else "num_hidden_layers": layers}
    text = known.get("text_config")
    if text is not None:
        return {"text_config": {**text, **fields}}
    if "layer_types" in known:
        fields["layer_types"] = [
            draw(st.sampled_from(["sliding_attention", "full_attention"])) for _ in range(layers)
        ]
        if name != "smollm3" and draw(st.booleans()):
            fields["layer_types"] = None  # the family's own rule
    for by_layer in ("no_rope_layers", "layer_rope_theta"):
        if by_layer in known:
            fields[by_layer] = None
    accepted = vars(default(name))
    for bias in BIASES:
        if bias in accepted:
            fields[bias] = draw(st.booleans())
    fields["tie_word_embeddings"] = draw(st.booleans())
    return fields


@cache
def default(name: str) -> PretrainedConfig:
    config: PretrainedConfig = CONFIG_MAPPING[name]()
    return config


@pytest.mark.parametrize("name", DEFAULTS)
def test_so_it_has_at_the_size_that_is_the_default_of_its_class(name: str) -> None:
    config = default(name)
    check(config.to_diff_dict(), config)


@pytest.mark.parametrize("name", PUBLISHED)
def test_so_it_has_at_a_published_size(name: str) -> None:
    model: Model = catalog.model(name)
    assert model.parameters == counted(AutoConfig.for_model(**catalog.config(name)))
