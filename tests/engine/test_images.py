"""Images: the grid is what `spec` says, equal pixels are equal content, and what is no image is refused."""

from __future__ import annotations

import math
from io import BytesIO

import msgspec
import numpy as np
import pytest
from PIL import Image

from triptych import catalog
from triptych.engine.images import ImageReader, load_image_reader
from triptych.engine.messages import ImageInput, Sampling, Submit, encode, to_worker
from triptych.engine.runner import patches


def reader(model: str) -> ImageReader:
    found = load_image_reader(f"random:{model}")
    assert found is not None
    return found


def jpeg(width: int, height: int, kind: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(width * height).integers(0, 255, (height, width, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("model", ["Qwen2.5-VL-3B", "Qwen3-VL-4B"])
@pytest.mark.parametrize(("width", "height"), [(2000, 2000), (64, 300), (30, 30), (640, 480)])
def test_an_image_has_the_patches_and_tokens_that_are_predicted(model: str, width: int, height: int) -> None:
    vision = catalog.model(model).vision
    assert vision is not None
    file = jpeg(width, height)
    image = reader(model).read(file)
    assert math.prod(image.grid) == vision.patches(width, height)
    assert image.tokens == reader(model).tokens(file) == vision.tokens(width, height)
    assert len(image.pixels) == math.prod(image.grid) * 3 * vision.patch**2


@pytest.mark.parametrize("model", ["Qwen2.5-VL-3B", "Qwen3-VL-4B"])
@pytest.mark.parametrize(("width", "height"), [(640, 480), (64, 300), (30, 30)])
def test_the_vision_tower_gets_what_transformers_gives_it(model: str, width: int, height: int) -> None:
    file = jpeg(width, height)
    found = reader(model)
    image = found.read(file)
    made = found._processor(images=[Image.open(BytesIO(file))], return_tensors="np")
    assert image.grid == tuple(made["image_grid_thw"][0])
    given = patches(image, found._processor.temporal_patch_size).numpy()
    np.testing.assert_allclose(given, made["pixel_values"], atol=1e-6)


def test_pixels_that_are_not_those_of_the_grid_are_no_message() -> None:
    data = encode(Submit("1", [1], Sampling(max_tokens=1), [ImageInput(1, (1, 4, 6), 6, bytes(3 * 4 * 6))]))
    to_worker(data)
    with pytest.raises(msgspec.ValidationError, match="are not 28 patches of 3 channels"):
        to_worker(data.replace(b"\x93\x01\x04\x06", b"\x93\x01\x04\x07"))


def test_content_follows_the_pixels() -> None:
    images = reader("Qwen2.5-VL-3B")
    one, again, other = (images.read(jpeg(*size, "PNG")) for size in ((60, 40), (60, 40), (40, 60)))
    assert one == again
    assert one.content != other.content
    assert 0 <= one.content < 2**63


@pytest.mark.parametrize(
    ("file", "what"),
    [
        (b"", "no image"),
        (b"<svg></svg>", "no image"),
        (jpeg(60, 40)[:400], "broken"),
    ],
)
def test_what_is_no_image_is_refused(file: bytes, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        reader("Qwen2.5-VL-3B").read(file)


def test_a_small_file_that_unpacks_to_gigabytes_is_refused() -> None:
    file = BytesIO()
    Image.new("L", (30_000, 3_000)).save(file, "PNG")
    assert len(file.getvalue()) < 1_000_000
    with pytest.raises(ValueError, match="million pixels"):
        reader("Qwen2.5-VL-3B").read(file.getvalue())


def test_a_text_model_reads_no_images() -> None:
    assert load_image_reader("random:opt-125m") is None
