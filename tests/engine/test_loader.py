"""Models: what each family gives the engine, random weights that say something, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AttentionInterface

from triptych import catalog
from triptych.engine.attention import KVPool, Pass, Piece, attend
from triptych.engine.loader import LoadedModel, load, read_config
from triptych.spec.base import SpecError

from . import tiny

EXPERT_FAMILIES = [name for name, fields in tiny.ALL.items() if "num_experts_per_tok" in str(fields)]
TOKENS = 7


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny.build("llama", folder, device="cpu").model.save_pretrained(folder)
    return folder


def forward(loaded: LoadedModel, **arguments: Any) -> Any:
    """One pass over a prompt, of which the logits of the last token are wanted."""
    positions = torch.arange(TOKENS).unsqueeze(0)
    if loaded.image_token_id is not None:
        positions = positions.expand(3, 1, -1)
    return loaded.model(
        input_ids=torch.arange(TOKENS).unsqueeze(0),
        position_ids=positions,
        logits_to_keep=torch.tensor([TOKENS - 1]),
        use_cache=False,
        **arguments,
    )


def greedy(loaded: LoadedModel) -> list[list[int]]:
    """24 tokens after each of eight random prompts, by transformers."""
    prompts = torch.randint(500, (8, 20), generator=torch.Generator().manual_seed(1))
    out = loaded.model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=24,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    found: list[list[int]] = out[:, 20:].tolist()
    return found


@pytest.mark.parametrize("name", tiny.ALL)
def test_every_layer_gets_the_pass_and_no_mask(name: str, tmp_path: Path) -> None:
    layers, windows = [], []

    def watch(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **more: Any) -> Any:
        assert attention_mask is None
        assert query.shape[2] == TOKENS
        layers.append(module.layer_idx)
        windows.append(more.get("sliding_window"))
        return attend(module, query, key, value, attention_mask, **more)

    AttentionInterface.register("watched", watch)
    loaded = tiny.build(name, tmp_path, attention="watched", device="cpu")
    pool = KVPool(
        layers=loaded.layers,
        tokens=TOKENS,
        heads=loaded.kv_heads,
        head_dim=loaded.head_dim,
        dtype=loaded.dtype,
        device="cpu",
    )
    batch = Pass(pool, [Piece(0, TOKENS, 0, 0)], torch.arange(TOKENS))
    logits = forward(loaded, kv=batch).logits
    assert layers == list(range(loaded.layers))
    text = catalog.model(str(tiny.config_file(name, tmp_path))).text
    seen = [window for window in windows if window is not None]
    assert seen == [text.sliding_window] * round(text.windowed_share * text.layers)
    assert logits.shape == (1, 1, loaded.vocab_size)
    assert pool.keys.abs().sum(dim=(2, 3)).all()
    expected = forward(tiny.build(name, tmp_path, attention="eager", device="cpu")).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_a_forward_without_a_pass_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="kv="):
        forward(tiny.build(name, tmp_path, device="cpu"))


def test_it_says_what_the_engine_asks(tmp_path: Path) -> None:
    text = tiny.build("qwen3", tmp_path, dtype=torch.bfloat16, device="cpu")
    assert (text.layers, text.kv_heads, text.head_dim) == (2, 2, 32)
    assert (text.vocab_size, text.max_context) == (tiny.VOCABULARY, 512)
    assert text.image_token_id is None
    assert {weight.dtype for weight in text.model.parameters()} == {torch.bfloat16}
    assert not text.model.training
    assert tiny.build("opt", tmp_path, device="cpu").kv_heads == 4
    images = tiny.build("qwen3_vl", tmp_path, device="cpu")
    assert images.image_token_id == 510
    assert images.model.config.vision_config._attn_implementation == "sdpa"


@pytest.mark.parametrize("kind", ["linear_attention", "chunked_attention"])
def test_layers_other_than_attention_are_refused(kind: str, tmp_path: Path) -> None:
    config = {**tiny.CONFIGS["qwen3"], "layer_types": ["full_attention", kind]}
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    with pytest.raises(SpecError, match=f"has layers with {kind}, which cannot be run"):
        load(f"random:{file}", dtype=torch.float32)


@pytest.mark.parametrize("name", tiny.ALL)
def test_random_models_have_something_to_say(name: str, tmp_path: Path) -> None:
    said = greedy(tiny.build(name, tmp_path, attention="eager", device="cpu"))
    assert sum(len(set(tokens)) for tokens in said) / len(said) > 16
    assert len({tuple(tokens) for tokens in said}) == len(said)


@pytest.mark.parametrize("name", EXPERT_FAMILIES)
def test_experts_have_their_say(name: str, tmp_path: Path) -> None:
    loaded = tiny.build(name, tmp_path, attention="eager", device="cpu")
    layer = loaded.model.get_decoder().layers[-1]
    experts = layer.block_sparse_moe if name.startswith("granite") else layer.mlp
    torch.manual_seed(0)
    out = experts(torch.randn(1, 50, 64))
    assert 0.1 < float((out[0] if isinstance(out, tuple) else out).std()) < 3


def test_weights_follow_the_seed(tmp_path: Path) -> None:
    path = tiny.config_file("llama", tmp_path)
    one, again, other = (load(f"random:{path}", dtype=torch.float32, seed=seed) for seed in (1, 1, 2))
    assert all(map(torch.equal, one.model.parameters(), again.model.parameters()))
    assert not torch.equal(one.model.lm_head.weight, other.model.lm_head.weight)


@pytest.mark.parametrize(
    ("name", "sections"), [("Qwen2.5-VL-3B", [16, 24, 24]), ("Qwen3-VL-4B", [24, 20, 20])]
)
def test_image_positions_are_those_published(name: str, sections: list[int]) -> None:
    text = read_config(f"random:{name}").get_text_config()
    assert text.rope_parameters["mrope_section"] == sections


def test_image_positions_that_a_configuration_names_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps(
            {**tiny.CONFIGS["qwen2_5_vl"], "rope_scaling": {"type": "mrope", "mrope_section": [4, 2, 2]}}
        )
    )
    assert read_config(f"random:{path}").get_text_config().rope_parameters["mrope_section"] == [4, 2, 2]


def test_a_checkpoint_is_the_model_that_was_saved(checkpoint: Path, tmp_path: Path) -> None:
    saved = tiny.build("llama", tmp_path, device="cpu").model.state_dict()
    again = load(str(checkpoint), dtype=torch.float32)
    assert again.eos_token_ids == (2,)
    assert all(torch.equal(weight, saved[name]) for name, weight in again.model.state_dict().items())


def test_a_checkpoint_goes_to_any_device_without_further_packages(checkpoint: Path) -> None:
    model = load(str(checkpoint), dtype=torch.float32, device="meta").model
    assert {weight.device.type for weight in model.parameters()} == {"meta"}


def test_weights_in_mxfp4_become_whole(tmp_path: Path) -> None:
    model = tiny.build("gpt_oss", tmp_path, device="cpu").model
    model.save_pretrained(tmp_path)
    signs_and_sizes = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
    expected, stored = model.state_dict(), load_file(tmp_path / "model.safetensors")
    for name in [name for name in stored if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        experts, inputs, outputs = stored.pop(name).shape
        blocks = torch.randint(256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8)
        stored[f"{name}_blocks"] = blocks  # two weights a byte
        stored[f"{name}_scales"] = torch.full(blocks.shape[:-1], 127 - 5, dtype=torch.uint8)
        pairs = signs_and_sizes[torch.stack([blocks & 15, blocks >> 4], -1).long()]
        expected[name] = pairs.reshape(experts, outputs, inputs).transpose(1, 2) / 2**5
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    quantization = {"quantization_config": {"quant_method": "mxfp4"}}
    (tmp_path / "config.json").write_text(json.dumps({**config, **quantization}))
    loaded = load(str(tmp_path), dtype=torch.float32).model.state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in expected.items())


def test_stop_tokens_are_also_those_of_generation(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 2]}')
    assert load(str(tmp_path), dtype=torch.float32).eos_token_ids == (2, 7)


def change(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def lose_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (lose_a_weight, "model.layers.1.mlp.up_proj.weight"),
        (cut_short, "incomplete"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
        (lambda folder: (folder / "generation_config.json").write_text("{"), "generation_config.json"),
        (
            lambda folder: change(folder, intermediate_size=128),
            r"\[64, 96\], config.json asks for \[64, 128\]",
        ),
        (lambda folder: change(folder, num_attention_heads=3), "attention heads"),
        (lambda folder: change(folder, hidden_size="large"), "hidden_size"),
        (lambda folder: change(folder, model_type="none such"), "none such"),
    ],
)
def test_a_broken_checkpoint_is_refused_in_one_line(
    harm: Callable[[Path], object], what: str, checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(checkpoint, folder)
    harm(folder)
    with pytest.raises(SpecError, match=what) as caught:
        load(str(folder), dtype=torch.float32, file="deployment.yaml")
    line = str(caught.value)
    assert line.startswith(f"deployment.yaml: model: {folder} cannot be ")
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "opt-125m",
            "opt-125m is no checkpoint folder; name one, or random:opt-125m for random weights",
        ),
        (
            "random:Qwen-7B",
            "random:Qwen-7B is of a kind that transformers cannot run; choose another model",
        ),
        (
            "random:none/config.json",
            f"none/config.json: no such file or folder in {Path.cwd()}; correct the path",
        ),
    ],
)
def test_a_name_that_stands_for_no_model_is_refused(name: str, line: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(name, dtype=torch.float32)
    assert str(caught.value) == f"model: {line}"


def test_sequences_beyond_the_first_frequencies_of_longrope_are_not_taken(tmp_path: Path) -> None:
    rope = {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    file = tmp_path / "config.json"
    fields = {**tiny.ALL["phi3"], "rope_scaling": rope, "original_max_position_embeddings": 128}
    file.write_text(json.dumps(fields))
    assert load(f"random:{file}", dtype=torch.float32).max_context == 128


@pytest.mark.parametrize(
    ("rope", "tokens"),
    [
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512),
        ({"type": "linear", "factor": 2.0}, 4096),
        # All tokens of a longer sequence would be turned by other frequencies.
        ({"type": "dynamic", "factor": 2.0}, 2048),
    ],
)
def test_scaled_positions_are_served_as_far_as_they_reach(
    rope: dict[str, Any], tokens: int, tmp_path: Path
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**tiny.ALL["llama"], "rope_scaling": rope, "max_position_embeddings": 2048}))
    assert load(f"random:{file}", dtype=torch.float32).max_context == tokens
    predicted = catalog.model(str(file)).text.max_context
    assert predicted == tokens or rope["type"] == "dynamic"


def test_random_weights_have_the_shape_of_the_name() -> None:
    assert catalog.model("random:Qwen3-0.6B") == catalog.model("Qwen3-0.6B")
