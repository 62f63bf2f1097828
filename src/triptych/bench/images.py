"""Random images: drawn by seed and content, as JPEG files of about 0.28 bytes a pixel."""

from __future__ import annotations

from base64 import b64encode
from collections import OrderedDict
from io import BytesIO
from threading import Lock

import numpy as np
from PIL import Image

from triptych.workload import Requests

_GRAIN = 4
"""Pixels over which the noise is smoothed. Noise of single pixels makes files several times as large."""
_QUALITY = 75
_CACHE_BYTES = 64 << 20


class Images:
    """Makes the images of requests; safe to use from several threads.

    Args:
        requests: whose images they are.
        seed: of the draw. Equal contents are equal images.
    """

    def __init__(self, requests: Requests, seed: int) -> None:
        self._requests = requests
        self._seed = seed
        contents = requests.image_content
        self._repeat = len(np.unique(contents)) < len(contents)
        self._cache: OrderedDict[tuple[int, int, int], bytes] = OrderedDict()
        self._cached_bytes = 0
        self._lock = Lock()

    def parts(self, index: int) -> list[bytes]:
        """The images of a request as parts of a chat message, in JSON."""
        requests = self._requests
        return [
            self._part(int(content), int(width), int(height))
            for begin, end in [requests.image_offsets[index : index + 2]]
            for content, width, height in zip(
                requests.image_content[begin:end],
                requests.image_width[begin:end],
                requests.image_height[begin:end],
                strict=True,
            )
        ]

    def _part(self, content: int, width: int, height: int) -> bytes:
        key = (content, width, height)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        file = draw_jpeg(self._seed, *key)
        url = b"data:image/jpeg;base64," + b64encode(file)
        part = b'{"type":"image_url","image_url":{"url":"' + url + b'"}}'
        if self._repeat:
            self._keep(key, part)
        return part

    def _keep(self, key: tuple[int, int, int], part: bytes) -> None:
        with self._lock:
            if key in self._cache:
                return
            self._cache[key] = part
            self._cached_bytes += len(part)
            while self._cached_bytes > _CACHE_BYTES:
                _, oldest = self._cache.popitem(last=False)
                self._cached_bytes -= len(oldest)


def draw_jpeg(seed: int, content: int, width: int, height: int) -> bytes:
    """A JPEG file; equal arguments give equal bytes (with the same releases of NumPy and Pillow)."""
    random = np.random.default_rng([seed, content % 2**64])
    small = (-(-height // _GRAIN), -(-width // _GRAIN), 3)
    noise = Image.fromarray(random.integers(0, 256, small, dtype=np.uint8))
    file = BytesIO()
    noise.resize((width, height), Image.Resampling.BILINEAR).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
