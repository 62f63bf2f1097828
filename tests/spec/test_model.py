"""What follows from a model's shape: parameters, bytes per token, and the image rule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych import catalog
from triptych.spec.base import SpecError
from triptych.spec.device import Precision
from triptych.spec.model import Experts, Model, TextModel, VisionModel

TINY = TextModel(
    layers=3,
    hidden=8,
    heads=4,
    kv_heads=2,
    head_dim=2,
    intermediate=16,
    gated_mlp=True,
    vocab=100,
    tied_embeddings=False,
    max_context=32,
)
MIXED = TINY.model_copy(
    update={
        "experts": Experts(count=4, top_k=2, intermediate=5, shared_intermediate=6, layers=2),
    }
)
TOWERS = ("Qwen2-VL-7B", "Qwen2.5-VL-7B", "Qwen3-VL-8B")


def tower(name: str) -> VisionModel:
    vision = catalog.model(name).vision
    assert vision is not None
    return vision


def test_a_dense_layer_counted_by_hand() -> None:
    assert TINY.attention_parameters == 8 * 8 + 2 * 8 * 4 + 8 * 8
    assert TINY.mlp_parameters == 3 * 8 * 16
    assert TINY.norm_parameters == 2 * 8
    assert TINY.embedding_parameters == TINY.head_parameters == 100 * 8
    assert TINY.parameters == 2 * 800 + 3 * (192 + 384 + 16) + 8
    assert TINY.active_parameters == TINY.parameters
    assert TINY.expert_parameters == TINY.router_parameters == TINY.shared_expert_parameters == 0


def test_an_expert_layer_counted_by_hand() -> None:
    assert (MIXED.expert_layers, MIXED.dense_layers) == (2, 1)
    assert MIXED.expert_parameters == 3 * 8 * 5
    assert MIXED.router_parameters == 8 * 4
    assert MIXED.shared_expert_parameters == 3 * 8 * 6 + 8  # and its gate
    assert MIXED.experts is not None
    ungated = MIXED.model_copy(update={"experts": MIXED.experts.model_copy(update={"shared_gate": False})})
    assert ungated.shared_expert_parameters == 3 * 8 * 6
    biased = MIXED.model_copy(
        update={"experts": MIXED.experts.model_copy(update={"bias": True, "router_bias": True})}
    )
    assert biased.parameters - MIXED.parameters == 2 * (4 * (5 + 5 + 8) + 4)
    assert MIXED.parameters - MIXED.active_parameters == 2 * (4 - 2) * 120
    mixture = 4 * 120 + 32 + 152
    assert MIXED.parameters == TINY.parameters - 2 * 384 + 2 * mixture


def test_every_bias_and_optional_norm_is_counted() -> None:
    def more(**update: object) -> int:
        return TINY.model_copy(update=update).parameters - TINY.parameters

    assert more(qkv_bias=True) == 3 * (8 + 4 + 4)
    assert more(output_bias=True) == 3 * 8
    assert more(sinks=True) == 3 * 4
    assert more(activation_parameters=2) == 3 * 2
    assert more(mlp_bias=True) == 3 * (16 + 16 + 8)
    assert more(gated_mlp=False) == -3 * 8 * 16
    assert more(norm_bias=True) == 3 * 2 * 8 + 8
    assert more(norms_per_layer=1) == -3 * 8
    assert more(final_norm=False) == -8
    assert more(qk_norm=True) == 3 * 2 * 2
    assert more(head_bias=True) == 100
    assert more(tied_embeddings=True) == -800
    assert more(norm_weight=False) == -(3 * 2 * 8 + 8)
    assert more(qk_norm=True, qk_norm_shared=False) == 3 * (4 + 2) * 2
    assert more(positions="learned") == 32 * 8
    assert more(positions="learned", spare_positions=2) == (32 + 2) * 8
    assert more(sliding_window=16, windowed_layers=2) == 0


@pytest.mark.parametrize(
    ("fields", "share"),
    [({}, 0.0), ({"sliding_window": 16}, 1.0), ({"sliding_window": 16, "windowed_layers": 2}, 2 / 3)],
)
def test_share_of_the_layers_with_a_window(fields: dict[str, int], share: float) -> None:
    assert TextModel.parse({**TINY.model_dump(), **fields}).windowed_share == share


@pytest.mark.parametrize(("precision", "bytes_each"), [("bf16", 2), ("fp8", 1), ("int4", 0.5)])
def test_bytes_per_token_by_precision(precision: Precision, bytes_each: float) -> None:
    model = catalog.model("Qwen3-VL-8B")
    assert model.kv_bytes_per_token(precision) == 2 * 36 * 8 * 128 * bytes_each
    assert model.embedding_bytes_per_token(precision) == 4096 * 4 * bytes_each


def test_a_model_without_a_tower_has_no_image_embeddings() -> None:
    assert Model(name="tiny", family="llama", text=TINY).embedding_bytes_per_token("bf16") == 0


def test_the_tower_adds_to_the_parameters_and_not_to_those_of_a_token() -> None:
    model = catalog.model("Qwen3-VL-8B")
    assert model.parameters == model.text.parameters + tower("Qwen3-VL-8B").parameters
    assert model.active_parameters == model.text.parameters


def test_deepstack_widens_the_embedding() -> None:
    assert tower("Qwen2.5-VL-7B").embedding_width == 3584
    assert tower("Qwen3-VL-235B-A22B").embedding_width == 4096 * (1 + 3)


@pytest.mark.parametrize(
    ("name", "width", "height", "patches", "tokens"),
    [
        ("Qwen2.5-VL-7B", 2000, 2000, 20164, 5041),
        ("Qwen2.5-VL-7B", 1920, 1080, 2691 * 4, 2691),
        ("Qwen2-VL-7B", 1920, 1080, 2691 * 4, 2691),
        ("Qwen3-VL-8B", 2000, 2000, 15376, 3844),
        ("Qwen3-VL-8B", 1920, 1080, 2040 * 4, 2040),
        ("Qwen2.5-VL-7B", 1, 1, 16, 4),  # grown to 3,136 pixels
        ("Qwen3-VL-8B", 10, 10, 256, 64),  # grown to 65,536
        ("Qwen2.5-VL-7B", 8000, 6000, 147 * 110 * 4, 147 * 110),  # shrunk to 12,845,056
    ],
)
def test_image_size_to_patches_and_tokens(
    name: str, width: int, height: int, patches: int, tokens: int
) -> None:
    assert tower(name).patches(width, height) == patches
    assert tower(name).tokens(width, height) == tokens


@given(
    name=st.sampled_from(TOWERS),
    short=st.integers(1, 5000),
    ratio=st.floats(1, 40),
    upright=st.booleans(),
)
def test_a_resized_image_is_one_that_the_model_takes_as_it_is(
    name: str, short: int, ratio: float, upright: bool
) -> None:
    vision = tower(name)
    size = (short, int(short * ratio)) if upright else (int(short * ratio), short)
    width, height = vision.resize(*size)
    unit = vision.patch * vision.merge
    assert width % unit == height % unit == 0
    assert vision.min_pixels <= width * height <= vision.max_pixels
    assert vision.resize(width, height) == (width, height)
    assert vision.resize(*reversed(size)) == (height, width)
    assert vision.patches(*size) == vision.tokens(*size) * vision.merge**2


def test_images_that_no_model_takes() -> None:
    vision = tower("Qwen2.5-VL-7B")
    assert vision.tokens(200, 1) > 0
    with pytest.raises(SpecError, match=r"^image: 201x1 is more than 200 times .* crop it$"):
        vision.resize(201, 1)
    with pytest.raises(SpecError, match=r"^image: 0x10 has no area"):
        vision.resize(0, 10)


@pytest.mark.parametrize(
    ("update", "problem"),
    [
        ({"kv_heads": 3}, "kv_heads (3) must divide heads (4)"),
        (
            {"experts": {"count": 4, "top_k": 2, "intermediate": 5, "layers": 4}},
            "experts.layers (4) must not exceed layers (3)",
        ),
        (
            {"experts": {"count": 4, "top_k": 5, "intermediate": 5, "layers": 3}},
            "top_k (5) must not exceed count (4)",
        ),
        ({"windowed_layers": 2}, "windowed_layers needs sliding_window; give it a value"),
        (
            {"sliding_window": 16, "windowed_layers": 4},
            "windowed_layers (4) must not exceed layers (3)",
        ),
    ],
)
def test_text_shapes_that_cannot_be(update: dict[str, object], problem: str) -> None:
    with pytest.raises(SpecError) as error:
        TextModel.parse({**TINY.model_dump(), **update})
    assert problem in str(error.value)


@pytest.mark.parametrize(
    ("update", "problem"),
    [
        ({"heads": 7}, "heads (7) must divide hidden (1152)"),
        ({"deepstack_blocks": [27]}, "block 27 is none of the 27 blocks"),
        ({"min_pixels": 100, "max_pixels": 99}, "min_pixels (100) must not exceed max_pixels (99)"),
    ],
)
def test_towers_that_cannot_be(update: dict[str, object], problem: str) -> None:
    with pytest.raises(SpecError) as error:
        VisionModel.parse({**tower("Qwen3-VL-8B").model_dump(), **update})
    assert problem in str(error.value)
