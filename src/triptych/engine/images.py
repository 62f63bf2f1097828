"""Image files as the model's input, by the Pillow version of its own processor."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoImageProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from triptych import catalog
from triptych.engine.loader import RANDOM, read_config
from triptych.engine.messages import ImageInput
from triptych.engine.pixels import open_image, shown_pixels, shown_size
from triptych.spec.base import SpecError


class ImageReader:
    """Reads images for one model; safe to use from several threads.

    Pixels leave it as bytes: normalised, and with the frames that a vision tower wants, they are eight times
    as large, and several times that while they are made.

    Args:
        processor: of the model, of the Qwen2-VL kind.
        placeholder: the token that stands for an embedding of an image in the prompt.
    """

    def __init__(self, processor: Any, placeholder: int) -> None:
        self.placeholder = placeholder
        self._processor = processor
        scale = processor.rescale_factor
        self._mean = tuple(value / scale for value in processor.image_mean)
        self._std = tuple(value / scale for value in processor.image_std)

    def tokens(self, file: bytes) -> int:
        """Embeddings of an image, of which no more is read than how large it is.

        Raises:
            ValueError: it is no image, or too large.
        """
        width, height = shown_size(open_image(file))
        patches = int(self._processor.get_number_of_image_patches(height, width))
        return patches // int(self._processor.merge_size**2)

    def read(self, file: bytes) -> ImageInput:
        """An image file as the model's input.

        Raises:
            ValueError: it is no image, or too large.
        """
        processor = self._processor
        patch, merge = processor.patch_size, processor.merge_size
        pixels = np.moveaxis(np.asarray(shown_pixels(open_image(file))), -1, 0)
        pixels = processor.resize(pixels, processor.size, processor.resample, factor=patch * merge)
        channels, height, width = pixels.shape
        rows, columns = height // patch, width // patch
        # Patches that become one embedding follow each other.
        tiles = pixels.reshape(channels, rows // merge, merge, patch, columns // merge, merge, patch)
        data = np.ascontiguousarray(tiles.transpose(1, 4, 2, 5, 0, 3, 6), dtype=np.uint8).tobytes()
        digest = blake2b(data, digest_size=8, salt=f"{rows}x{columns}".encode()).digest()
        return ImageInput(
            content=int.from_bytes(digest, "little") >> 1,
            grid=(1, rows, columns),
            tokens=rows * columns // merge**2,
            pixels=data,
            mean=self._mean,
            std=self._std,
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
    if not (processor.do_resize and processor.do_rescale and processor.do_normalize):
        problem = (
            f"{name} has an image processor that does not resize, rescale and normalise; use one that does"
        )
        raise SpecError(field, problem, file=file)
    return ImageReader(processor, config.image_token_id)
