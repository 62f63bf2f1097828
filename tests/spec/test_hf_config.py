"""Reading Hugging Face configurations: families, layouts, defaults, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from triptych.spec.base import SpecError
from triptych.spec.hf_config import model_from_config, model_from_path
from triptych.spec.hf_families import FAMILIES

SHARED = Path(__file__).parents[3] / "shared" / "data"

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 512,
}
MOE = {
    **LLAMA,
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}
MANY = {
    **MOE,
    "shared_expert_intermediate_size": 32,
    "n_routed_experts": 8,
    "num_local_experts": 8,
}
"""Fields of all families with experts."""
TOWER = {"depth": 32, "hidden_size": 1280, "out_hidden_size": 64}
VL = {**LLAMA, "model_type": "qwen2_5_vl", "vision_config": TOWER}


def test_fields_that_are_absent_hold_their_defaults() -> None:
    given = {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"}
    text = model_from_config(given, "tiny").text
    assert (text.kv_heads, text.head_dim, text.tied_embeddings) == (8, 8, False)
    assert not (text.qkv_bias or text.output_bias or text.mlp_bias)
    assert text.sliding_window is None
    assert model_from_config({**LLAMA, "head_dim": None}, "tiny").text.head_dim == 8


def test_llama_attention_bias_is_that_of_all_four_matrices() -> None:
    text = model_from_config({**LLAMA, "attention_bias": True}, "tiny").text
    assert text.qkv_bias and text.output_bias


def test_qwen1_counts_both_inputs_of_its_mlp() -> None:
    text = model_from_config({**LLAMA, "model_type": "qwen", "kv_channels": 8}, "tiny").text
    assert (text.intermediate, text.kv_heads, text.qkv_bias) == (64, 8, True)
    assert not (text.output_bias or text.mlp_bias)


@pytest.mark.parametrize(
    ("fields", "window"),
    [
        ({"model_type": "mistral"}, 4096),
        ({"model_type": "mistral", "sliding_window": None}, None),
        ({"model_type": "mistral", "sliding_window": 100}, 100),
        ({"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}, None),
        ({"model_type": "qwen2", "sliding_window": 100, "use_sliding_window": False}, None),
        ({"model_type": "qwen2", "sliding_window": 100}, None),
        (
            {
                "model_type": "qwen2",
                "sliding_window": 100,
                "use_sliding_window": True,
                "max_window_layers": 0,
            },
            100,
        ),
        ({"model_type": "qwen3", "sliding_window": 100, "use_sliding_window": True}, None),
    ],
)
def test_sliding_window(fields: dict[str, Any], window: int | None) -> None:
    assert model_from_config({**LLAMA, **fields}, "tiny").text.sliding_window == window


SLIDING, FULL = "sliding_attention", "full_attention"


@pytest.mark.parametrize(
    ("fields", "window", "layers"),
    [
        ({"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 1}, 4096, 3),
        ({"model_type": "qwen2_moe", "use_sliding_window": True}, 4096, 2),
        ({"model_type": "qwen3_moe", "use_sliding_window": True, "sliding_window": 100}, 100, None),
        ({"model_type": "gemma3_text", "sliding_window_pattern": 2, "sliding_window": 100}, 100, 2),
        ({"model_type": "gemma3_text", "layer_types": [SLIDING, FULL, FULL, FULL]}, 4096, 1),
        ({"model_type": "gemma3_text", "layer_types": [FULL] * 4}, None, None),
        ({"model_type": "cohere2"}, 4096, 3),
        ({"model_type": "cohere2", "sliding_window": None}, None, None),
        ({"model_type": "exaone4", "sliding_window": None}, None, None),
        ({"model_type": "cwm"}, 8192, 3),
        ({"model_type": "dots1", "layer_types": [SLIDING] * 4}, 4096, None),
        ({"model_type": "smollm3", "use_sliding_window": True, "sliding_window": 100}, 100, 1),
        ({"model_type": "smollm3", "sliding_window": 100}, None, None),
        ({"model_type": "gpt_oss"}, 128, 2),
        ({"model_type": "gemma2"}, 4096, 2),
        ({"model_type": "gemma2", "layer_types": [FULL, SLIDING, SLIDING, SLIDING]}, 4096, 3),
        ({"model_type": "vaultgemma", "sliding_window": 100}, 100, 2),
        ({"model_type": "granite_swa"}, 128, 3),
        ({"model_type": "mellum"}, None, None),
        ({"model_type": "mellum", "layer_types": [SLIDING, FULL, FULL, FULL]}, 1024, 1),
    ],
)
def test_some_layers_have_a_window(fields: dict[str, Any], window: int | None, layers: int | None) -> None:
    text = model_from_config({**MANY, **fields}, "tiny").text
    assert (text.sliding_window, text.windowed_layers) == (window, layers)


def test_experts_in_some_layers() -> None:
    def layers(**fields: Any) -> int:
        return model_from_config({**MOE, **fields}, "tiny").text.expert_layers

    assert layers() == 4
    assert layers(decoder_sparse_step=2) == 2
    assert layers(mlp_only_layers=[0, 3]) == 2
    assert layers(decoder_sparse_step=2, mlp_only_layers=[3]) == 1
    assert layers(decoder_sparse_step=5) == 0


def test_experts_where_the_layers_are_named_or_numbered() -> None:
    def layers(model_type: str, **fields: Any) -> int:
        config = {**MOE, "moe_num_experts": 8, "moe_k": 2, "model_type": model_type, **fields}
        return model_from_config(config, "tiny").text.expert_layers

    assert layers("exaone_moe") == 3
    assert layers("exaone_moe", first_k_dense_replace=4) == 0
    assert layers("exaone_moe", mlp_layer_types=["dense", "sparse", "dense", "sparse"]) == 2
    assert layers("mellum") == 4
    assert layers("ernie4_5_moe") == 3
    assert layers("ernie4_5_moe", moe_layer_interval=2, moe_layer_start_index=0) == 2
    assert layers("ernie4_5_moe", moe_layer_end_index=2) == 2
    assert layers("ernie4_5_moe", moe_layer_start_index=4) == 0


def test_both_layouts_of_vision_language_models_read_alike() -> None:
    text = {k: v for k, v in VL.items() if k not in ("model_type", "vision_config")}
    nested = {"model_type": "qwen2_5_vl", "text_config": text, "vision_config": TOWER}
    flat, deep = model_from_config(VL, "tiny"), model_from_config(nested, "tiny")
    assert flat == deep
    assert flat.vision is not None
    assert flat.vision.full_attention_blocks == (7, 15, 23, 31)


def test_the_outer_field_ties_the_head_of_a_vision_language_model() -> None:
    def tied(**fields: Any) -> bool:
        text = {k: v for k, v in VL.items() if k != "vision_config"}
        config = {**VL, "text_config": {**text, "tie_word_embeddings": False}, **fields}
        return model_from_config(config, "tiny").text.tied_embeddings

    assert tied(tie_word_embeddings=True)
    assert not tied()


def test_pixel_limits_come_from_the_preprocessor_beside_the_config(tmp_path: Path) -> None:
    def limits() -> tuple[int, int]:
        vision = model_from_path(tmp_path).vision
        assert vision is not None
        return vision.min_pixels, vision.max_pixels

    (tmp_path / "config.json").write_text(json.dumps(VL))
    beside = tmp_path / "preprocessor_config.json"
    assert limits() == (3136, 12_845_056)
    beside.write_text(json.dumps({"min_pixels": 1000, "max_pixels": 2_000_000}))
    assert limits() == (1000, 2_000_000)
    beside.write_text(json.dumps({"size": {"shortest_edge": 5000, "longest_edge": 3_000_000}}))
    assert limits() == (5000, 3_000_000)
    beside.write_text(json.dumps({"max_pixels": -1}))
    with pytest.raises(SpecError, match=r"preprocessor_config.json: max_pixels: must be a positive"):
        limits()


def test_a_file_or_its_folder_and_the_name_it_gives(tmp_path: Path) -> None:
    folder = tmp_path / "my-llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    model = model_from_path(folder)
    assert model == model_from_path(folder / "config.json")
    assert (model.name, model.source) == ("my-llama", str(folder / "config.json"))


@pytest.mark.parametrize("family", ["deepseek_v3", "llama4", "qwen3_5", ["llama"]])
def test_a_family_that_is_not_read_is_refused_by_name(family: object) -> None:
    with pytest.raises(SpecError) as error:
        model_from_config({**LLAMA, "model_type": family}, "tiny", "some/config.json")
    line = str(error.value)
    assert line.startswith(f"some/config.json: model_type: {family!r} is not read")
    assert all(name in line for name in FAMILIES)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"model_type": None}, "model_type: missing; use a model of apertus, arcee"),
        ({"hidden_size": None}, "hidden_size: missing; give it a value"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: must be a positive integer, not 0"),
        ({"vocab_size": "32k"}, "vocab_size: must be a positive integer, not '32k'"),
        ({"num_attention_heads": 2.5}, "num_attention_heads: must be a positive integer, not 2.5"),
        ({"num_attention_heads": True}, "num_attention_heads: must be a positive integer, not true"),
        ({"num_attention_heads": 7}, "num_attention_heads: must divide hidden_size (64)"),
        (
            {"num_key_value_heads": 3},
            "num_key_value_heads: 3 does not divide num_attention_heads (8); use a divisor",
        ),
        ({"hidden_size": 10**400}, "hidden_size: must be at most 1000000000; correct the number"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers: must be at most 100000; correct the number"),
        ({"attention_bias": "yes"}, "attention_bias: must be true or false, not 'yes'"),
        ({**MOE, "mlp_only_layers": 3}, "mlp_only_layers: must be a list of layer numbers, not 3"),
        ({**MOE, "num_experts_per_tok": 9}, "num_experts_per_tok: 9 is more than num_experts (8); lower it"),
        (
            {"model_type": "qwen3", "layer_types": ["full_attention", "linear_attention"]},
            "layer_types: linear_attention is not modelled; choose another model",
        ),
        ({"model_type": "olmo3", "layer_types": "all"}, "layer_types: must be a list of words, not 'all'"),
        (
            {"model_type": "gemma3_text", "use_bidirectional_attention": True},
            "use_bidirectional_attention: a model whose tokens see those after them generates nothing",
        ),
        ({**VL, "vision_config": None}, "vision_config: missing"),
        ({**VL, "vision_config": 3}, "vision_config: must be a mapping of fields, not 3"),
        (
            {**VL, "vision_config": {**TOWER, "depth": -1}},
            "vision_config.depth: must be a positive integer, not -1",
        ),
        (
            {**VL, "vision_config": {**TOWER, "out_hidden_size": 65}},
            "vision_config: the tower's embeddings are 65 wide and the language model is 64",
        ),
        (
            {**VL, "text_config": {"hidden_size": 0}},
            "text_config.hidden_size: must be a positive integer, not 0",
        ),
    ],
)
def test_wrong_fields_name_field_and_file(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(SpecError) as error:
        model_from_config({**LLAMA, **fields}, "tiny", "some/config.json")
    assert str(error.value).startswith("some/config.json: ")
    assert line in str(error.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "config.json: no such file"),
        ("{", "config.json: line 1: not valid JSON"),
        pytest.param("[" * 100_000, "config.json: not valid JSON: nested too deeply", id="brackets"),
        pytest.param("9" * 9_999, "config.json: not valid JSON: a number has too many digits", id="digits"),
        ("[]", "config.json: expected a JSON object of fields, found list"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, text: str | None, problem: str) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(SpecError) as error:
        model_from_path(tmp_path)
    assert problem in str(error.value)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data/hf_configs")
def test_public_configurations_are_read_or_refused_in_one_line() -> None:
    read, refused = [], []
    for path in sorted((SHARED / "hf_configs").glob("*.json")):
        try:
            read.append(model_from_path(path).family)
        except SpecError as error:
            assert "is not read; use a model of" in str(error)
            assert "\n" not in str(error)
            refused.append(json.loads(path.read_text())["model_type"])
    assert len(read) >= 19
    assert set(refused) == {"deepseek_v3", "kimi_k2", "llama4", "qwen3_5"}


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data/model_shapes.json")
def test_shapes_agree_with_the_list_of_vision_language_models() -> None:
    from triptych import catalog

    shapes = json.loads((SHARED / "model_shapes.json").read_text())
    for name in ("Qwen2.5-VL-7B", "Qwen2.5-VL-72B", "Qwen3-VL-235B-A22B"):
        model, shape = catalog.model(name), shapes[name]
        vision, text = model.vision, model.text
        assert vision is not None
        assert shape["vision"]["mlp"] == vision.intermediate
        assert shape["vision"]["out"] == vision.out_hidden
        assert shape["vision"].get("window_px") == vision.window
        assert shape["vision"]["deepstack"] == list(vision.deepstack_blocks)
        assert shape["vision"].get("full_attn_blocks", []) == list(vision.full_attention_blocks)
        assert shape["text"]["layers"] == text.layers
        assert shape["text"]["heads"] == text.heads
        assert shape["text"]["kv_heads"] == text.kv_heads
        assert shape["text"]["vocab"] == text.vocab
        assert shape["pixels"] == {"min": vision.min_pixels, "max": vision.max_pixels}


YARN = {"rope_type": "yarn", "factor": 4.0}


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"rope_scaling": None}, 512),
        ({"rope_scaling": YARN}, 2048),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, 1024),
        ({"rope_scaling": {"type": "dynamic", "factor": 1.5}}, 768),
        ({"rope_scaling": {**YARN, "original_max_position_embeddings": 512}}, 2048),
        # Published with the extended length.
        ({"rope_scaling": {**YARN, "original_max_position_embeddings": 128}}, 512),
        ({"rope_scaling": YARN, "original_max_position_embeddings": 128}, 512),
        # Qwen3's file: more positions than it was trained on.
        ({"rope_scaling": {**YARN, "original_max_position_embeddings": 500}}, 2000),
        ({"rope_scaling": {"type": "llama3", "factor": 8, "original_max_position_embeddings": 64}}, 512),
        ({"rope_scaling": {"type": "longrope", "original_max_position_embeddings": 64}}, 512),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}, 512),
        ({"rope_parameters": {"rope_theta": 1e6, **YARN}}, 2048),
        ({"rope_parameters": {"full_attention": YARN, "sliding_attention": {"rope_type": "default"}}}, 2048),
        ({"model_type": "gemma3_text", "rope_scaling": {"rope_type": "linear", "factor": 8.0}}, 512),
    ],
)
def test_scaled_positions_reach_as_far_as_their_factor_says(fields: dict[str, Any], tokens: int) -> None:
    assert model_from_config({**LLAMA, **fields}, "tiny").text.max_context == tokens


def test_scaling_that_lies_beside_the_language_model_counts_for_it() -> None:
    inner = {"text_config": {k: v for k, v in LLAMA.items() if k != "model_type"}}
    config = {"model_type": "qwen2_5_vl", "vision_config": TOWER, "rope_scaling": YARN, **inner}
    assert model_from_config(config, "tiny").text.max_context == 2048


def test_a_factor_that_is_none_is_refused_with_its_place() -> None:
    with pytest.raises(SpecError) as caught:
        model_from_config({**LLAMA, "rope_scaling": {**YARN, "factor": "4"}}, "tiny", "config.json")
    assert str(caught.value) == "config.json: rope_scaling.factor: must be a number of at least 1, not '4'"
