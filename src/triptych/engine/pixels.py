"""Image files as a person sees them: in RGB, the right way up, and opaque."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

MAX_PIXELS = 64_000_000
"""Most pixels of a file before it is resized: a small file may unpack to gigabytes."""
Image.MAX_IMAGE_PIXELS = None  # the limit is ours, and comes with a line that says what is wrong
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each orientation of EXIF (tag 0x0112); those from 5 on swap width and height."""
_WIDE = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
"""Modes of grey in more than 8 bits."""
_RANGES = {"F": (1.0, 255.0, 65535.0), "I": (255.0, 65535.0)}
"""White in the ranges in which grey is kept where the mode leaves it open, the narrowest first."""
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}


def open_image(file: bytes) -> Image.Image:
    """The image, of which the pixels are not read yet.

    Raises:
        ValueError: it is none, or too large.
    """
    try:
        image = Image.open(BytesIO(file), formats=_FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"this is no image in one of the formats {', '.join(_FORMATS)}") from None
    except (OSError, SyntaxError) as error:
        raise ValueError(f"the image is broken: {error}") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} is more than {MAX_PIXELS // 10**6} million pixels")
    return image


def shown_size(image: Image.Image) -> tuple[int, int]:
    """Width and height the right way up; no pixels are read for it."""
    width, height = image.size
    return (height, width) if _orientation(image) >= 5 else (width, height)


def shown_pixels(image: Image.Image) -> Image.Image:
    """The image in RGB, the right way up, on white where it is transparent.

    Raises:
        ValueError: it is broken.
    """
    try:
        transparent = _transparent_colour(image)
        image.load()
        if transparent is not None:
            image.info["transparency"] = transparent
        turn = _TURNS.get(_orientation(image))
        shown = _in_rgb(image)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"the image is broken: {error}") from None
    return shown if turn is None else shown.transpose(turn)


def _in_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _WIDE:
        return _narrowed(image).convert("RGB")
    if image.mode in _PREMULTIPLIED:
        image = image.convert(_PREMULTIPLIED[image.mode])
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    shown = Image.new("RGB", image.size, "white")
    shown.paste(layer, mask=layer.getchannel("A"))
    return shown


def _narrowed(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits in 8: by the mode's range, or by the narrowest usual range that holds it.

    Numbers outside of all usual ranges, as of a height map, are stretched from black to white.
    """
    values = np.asarray(image).astype(np.float32)
    finite = np.isfinite(values)
    values = np.where(finite, values, values.min(where=finite, initial=0.0))
    least, most = float(values.min()), float(values.max())
    white = next((top for top in _RANGES.get(image.mode, (65535.0,)) if least >= 0 and most <= top), None)
    if white is None:
        values, white = values - least, (most - least) or 1.0
    grey = np.rint(values * (255.0 / white)).astype(np.uint8)
    transparent = image.info.get("transparency")
    if transparent is not None:
        grey[np.asarray(image) == transparent] = 255
    return Image.fromarray(grey)


def _transparent_colour(image: Image.Image) -> int | tuple[int, ...] | None:
    """The transparent colour of a PNG in the 8 bits of its pixels; Pillow gives it in those of the file.

    Returns:
        None: it is right as it is.
    """
    colour: object = image.info.get("transparency")
    tiles = getattr(image, "tile", ())  # of files alone
    packing = str(tiles[0].args) if tiles else ""
    if isinstance(colour, int) and packing in ("L;2", "L;4"):
        bits = int(packing[-1])
        white: int = 2**bits - 1
        return colour * (255 // white)
    if isinstance(colour, tuple) and packing == "RGB;16B":
        return tuple(int(value) >> 8 for value in colour)
    return None


def _orientation(image: Image.Image) -> int:
    """EXIF's, 1 to 8; 1 where there is none that can be read."""
    try:
        # That of a PNG would read all pixels to find what may stand behind them.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # no image is refused for what is written beside it, however broken
        return 1
    return value if value in _TURNS else 1
