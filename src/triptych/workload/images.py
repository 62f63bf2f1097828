"""Which images requests carry."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.spec.workload import Images
from triptych.workload.streams import stream


class ImageColumns(NamedTuple):
    """The image columns of `Requests`."""

    image_offsets: NDArray[np.int64]
    image_width: NDArray[np.int32]
    image_height: NDArray[np.int32]
    image_content: NDArray[np.int64]


def draw_images(spec: Images, n: int, seed: int) -> ImageColumns:
    """Images of n requests: who has any, how many, which ones, and the size of each different one."""
    counts = stream(seed, "image counts").integers(spec.count.low, spec.count.high, n, endpoint=True)
    counts[stream(seed, "image shares").random(n) >= spec.share] = 0
    offsets = np.concatenate(([0], np.cumsum(counts)))
    images = int(offsets[-1])

    if spec.distinct is None:
        different, content = images, np.arange(images)
    else:
        different = spec.distinct
        content = stream(seed, "image contents").integers(0, different, images)

    weights = np.array([size.weight for size in spec.sizes])
    edges = np.cumsum(weights / weights.sum())[:-1]
    size = np.searchsorted(edges, stream(seed, "image sizes").random(different), side="right")
    width = np.array([size.width for size in spec.sizes], dtype=np.int32)[size]
    height = np.array([size.height for size in spec.sizes], dtype=np.int32)[size]
    return ImageColumns(offsets, width[content], height[content], content)
