"""Image files as the model's input, by the Pillow version of its own processor."""

from __future__ import annotations

from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from transformers import AutoImageProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from triptych import catalog
from triptych.engine.loader import RANDOM, read_config
from triptych.engine.messages import ImageInput
from triptych.spec.base import SpecError

MAX_PIXELS = 64_000_000
"""Of a file as it is, before it is made smaller: a small file may unpack to gigabytes."""
Image.MAX_IMAGE_PIXELS = None  # the limit is ours, and comes with a line that says what is wrong
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")


class ImageReader:
    """Reads images for one model; safe to use from several threads.

    Args:
        processor: of the model.
        placeholder: the token that stands for an embedding of an image in the prompt.
        patches_per_token: patches that become one embedding.
    """

    def __init__(self, processor: Any, placeholder: int, patches_per_token: int) -> None:
        self.placeholder = placeholder
        self._processor = processor
        self._patches_per_token = patches_per_token

    def read(self, file: bytes) -> ImageInput:
        """An image file as the model's input.

        Raises:
            ValueError: it is no image, or too large.
        """
        image = _open(file)
        made = self._processor(images=[image], return_tensors="np")
        pixels = np.ascontiguousarray(made["pixel_values"], dtype="<f4")
        frames, height, width = (int(side) for side in made["image_grid_thw"][0])
        data = pixels.tobytes()
        digest = blake2b(data, digest_size=8, salt=f"{height}x{width}".encode()).digest()
        return ImageInput(
            content=int.from_bytes(digest, "little") >> 1,
            grid=(frames, height, width),
            tokens=frames * height * width // self._patches_per_token,
            pixels=data,
        )


def load_image_reader(
    name: str, *, field: str = "model", file: str | Path | None = None
) -> ImageReader | None:
    """What reads images for a model; None where it takes none.

    Args:
        name: as in `loader.load`.
        field: where the name was written, for errors.
        file: likewise.

    Raises:
        SpecError: there is no such model, or no image processor in its folder.
    """
    config = read_config(name, field=field, file=file)
    vision = catalog.model(name, file, field=field).vision
    if vision is None:
        return None
    if name.startswith(RANDOM):
        processor = Qwen2VLImageProcessorPil(
            patch_size=vision.patch,
            merge_size=vision.merge,
            temporal_patch_size=vision.temporal_patch,
            size={"shortest_edge": vision.min_pixels, "longest_edge": vision.max_pixels},
        )
    else:
        try:
            processor = AutoImageProcessor.from_pretrained(name, local_files_only=True, backend="pil")
        except (OSError, ValueError) as error:
            problem = f"{name} has no image processor that can be read: {str(error).splitlines()[0]}"
            raise SpecError(field, problem, file=file) from None
    return ImageReader(processor, config.image_token_id, vision.merge**2)


def _open(file: bytes) -> Image.Image:
    """The image in RGB.

    Raises:
        ValueError: it is none, broken or too large.
    """
    try:
        image = Image.open(BytesIO(file), formats=_FORMATS)
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"{width}x{height} is more than {MAX_PIXELS // 10**6} million pixels")
        return image.convert("RGB")
    except UnidentifiedImageError:
        raise ValueError(f"this is no image in one of the formats {', '.join(_FORMATS)}") from None
    except (OSError, SyntaxError) as error:
        raise ValueError(f"the image is broken: {error}") from None
