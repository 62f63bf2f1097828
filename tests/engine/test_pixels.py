"""Images come out as a person sees them: the right way up, opaque, in the colours and greys they have."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from triptych.engine.images import load_image_reader
from triptych.engine.pixels import open_image, shown_pixels, shown_size

SIZE = (24, 16)
RED, WHITE = (255, 0, 0), (255, 255, 255)
LOSSY = 12
"""Steps of 255 that JPEG and CMYK may be off."""


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def shown(file: bytes) -> np.ndarray[Any, np.dtype[np.int64]]:
    image = shown_pixels(open_image(file))
    assert image.mode == "RGB"
    return np.asarray(image).astype(np.int64)


def corners() -> Image.Image:
    """Four quarters in four colours, so that each of the eight ways up looks different."""
    image = Image.new("RGB", SIZE, "white")
    width, height = SIZE[0] // 2, SIZE[1] // 2
    image.paste("red", (0, 0, width, height))
    image.paste("green", (width, 0, *SIZE[:1], height))
    image.paste("blue", (0, height, width, SIZE[1]))
    return image


def as_a_camera_writes(orientation: int) -> Image.Image:
    """The picture as it lies in a file of this orientation: EXIF names the sides of rows and columns."""
    seen = np.asarray(corners())
    stored = {
        1: seen,
        2: seen[:, ::-1],
        3: seen[::-1, ::-1],
        4: seen[::-1],
        5: seen.transpose(1, 0, 2),
        6: seen.transpose(1, 0, 2)[::-1],
        7: seen.transpose(1, 0, 2)[::-1, ::-1],
        8: seen.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    return Image.fromarray(np.ascontiguousarray(stored))


def exif(orientation: int) -> bytes:
    found = Image.Exif()
    found[0x0112] = orientation
    return found.tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_the_right_way_up(kind: str, orientation: int) -> None:
    options = {"quality": 95} | ({"lossless": True} if kind == "WEBP" else {})
    file = saved(as_a_camera_writes(orientation), kind, exif=exif(orientation), **options)
    assert shown_size(open_image(file)) == SIZE
    seen = shown(file)
    assert seen.shape == (SIZE[1], SIZE[0], 3)
    for row, column in ((3, 3), (3, -4), (-4, 3), (-4, -4)):
        np.testing.assert_allclose(seen[row, column], np.asarray(corners())[row, column], atol=LOSSY)


def test_tokens_are_those_of_the_picture_as_it_is_seen() -> None:
    reader = load_image_reader("random:Qwen2.5-VL-3B")
    assert reader is not None
    lying = Image.new("RGB", (600, 200), "red")
    turned = reader.read(saved(lying, "JPEG", exif=exif(6)))
    upright = reader.read(saved(lying.transpose(Image.Transpose.ROTATE_270), "JPEG"))
    assert turned.grid == upright.grid
    assert turned.grid[1] > turned.grid[2]
    assert reader.tokens(saved(lying, "JPEG", exif=exif(6))) == turned.tokens == upright.tokens


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("broken", [b"Exif\0\0", b"Exif\0\0junk", b"Exif\0\0MM\0*\xff\xff\xff\xff", exif(77)])
def test_an_orientation_that_is_none_changes_nothing(broken: bytes) -> None:
    assert shown_size(open_image(saved(corners(), "JPEG", exif=broken))) == SIZE


def half_clear(mode: str) -> Image.Image:
    """Its left half is transparent, above a colour that must not be seen."""
    image = Image.new("RGBA", SIZE, (*RED, 255))
    image.paste((0, 0, 0, 0), (0, 0, SIZE[0] // 2, SIZE[1]))
    return image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "kind"), [("RGBA", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGBA", "WEBP"), ("P", "GIF")]
)
def test_what_is_transparent_is_white(mode: str, kind: str) -> None:
    image = half_clear("RGBA" if mode == "P" else mode)
    if (mode, kind) == ("P", "PNG"):
        image = image.quantize(8)
    seen = shown(saved(image, kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert tuple(seen[4, 2]) == WHITE
    wanted = (76, 76, 76) if mode == "LA" else RED
    np.testing.assert_allclose(seen[4, -3], wanted, atol=2)


def test_what_is_half_transparent_is_mixed_with_white() -> None:
    seen = shown(saved(Image.new("RGBA", SIZE, (255, 0, 0, 102)), "PNG"))
    np.testing.assert_allclose(seen[0, 0], (255, 153, 153), atol=1)


def png(depth: int, colour: int, row: bytes, transparent: bytes = b"", late: bytes = b"") -> bytes:
    """One row of two pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, depth, colour, 0, 0, 0)),
            chunk(b"tRNS", transparent) if transparent else b"",
            chunk(b"IDAT", zlib.compress(b"\0" + row)),
            chunk(b"eXIf", late) if late else b"",
            chunk(b"IEND", b""),
        ]
    )


@pytest.mark.parametrize(
    ("depth", "colour", "row", "transparent"),
    [
        (1, 0, b"\x40", struct.pack(">H", 0)),
        (2, 0, b"\x10", struct.pack(">H", 0)),
        (4, 0, b"\x5a", struct.pack(">H", 5)),
        (8, 0, b"\x05\xaa", struct.pack(">H", 5)),
        (16, 0, struct.pack(">2H", 0x1234, 0x5678), struct.pack(">H", 0x1234)),
        (8, 2, b"\x01\x02\x03\x04\x05\x06", struct.pack(">3H", 1, 2, 3)),
        (16, 2, struct.pack(">6H", 0x1234, 0, 0, 0x5678, 0, 0), struct.pack(">3H", 0x1234, 0, 0)),
    ],
)
def test_one_transparent_colour_is_white_in_every_depth(
    depth: int, colour: int, row: bytes, transparent: bytes
) -> None:
    plain = shown(png(depth, colour, row))
    seen = shown(png(depth, colour, row, transparent))
    assert tuple(plain[0, 0]) != WHITE
    assert tuple(seen[0, 0]) == WHITE
    assert tuple(seen[0, 1]) == tuple(plain[0, 1])


def test_an_orientation_behind_the_pixels_counts() -> None:
    seen = shown(png(8, 0, b"\x05\xaa", late=exif(6).removeprefix(b"Exif\0\0")))
    assert seen.shape == (2, 1, 3)


def ramp(mode: str, most: float) -> Image.Image:
    """Grey from black to white."""
    kinds = {"F": np.float32, "I": np.int32, "I;16": np.uint16}
    values = np.linspace(0, most, 256).reshape(16, 16)
    return Image.fromarray(values.astype(kinds[mode]))


@pytest.mark.parametrize(
    ("mode", "most"), [("I;16", 65535), ("I", 65535), ("I", 255), ("F", 1.0), ("F", 255.0), ("F", 65535.0)]
)
def test_grey_of_any_width_goes_from_black_to_white(mode: str, most: float) -> None:
    image = ramp(mode, most)
    seen = np.asarray(shown_pixels(image))
    assert (image.mode, seen.shape) == (mode, (16, 16, 3))
    np.testing.assert_allclose(seen[..., 0].ravel(), np.arange(256), atol=1)


def test_a_dark_picture_in_16_bits_stays_dark() -> None:
    seen = shown(saved(ramp("I;16", 6553), "PNG"))
    assert (int(seen.min()), int(seen.max())) == (0, 25)


def test_grey_of_no_usual_range_is_stretched() -> None:
    heights = Image.fromarray(np.array([[-100.0, 0.0, 300.0, np.nan]], dtype=np.float32))
    assert np.asarray(shown_pixels(heights))[0, :3, 0].tolist() == [0, 64, 255]
    flat = Image.fromarray(np.full((2, 2), -5, dtype=np.int32))
    assert np.asarray(shown_pixels(flat)).max() == 0


@pytest.mark.parametrize(
    "mode",
    [
        *("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"),
        *("I", "F", "I;16", "I;16B"),
    ],
)
def test_every_mode_of_pillow_shows_the_picture(mode: str) -> None:
    if mode in ("I", "F", "I;16", "I;16B"):
        grey = Image.new(mode, SIZE, 0)
        grey.paste(65535, (SIZE[0] // 2, 0, *SIZE))
        seen = np.asarray(shown_pixels(grey))
        assert (seen[4, 2].max(), seen[4, -3].min()) == (0, 255)
        return
    middle = {"PA": "LA", "La": "LA", "RGBa": "RGBA"}.get(mode, mode)
    if mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.applyTransform(
            corners(), ImageCms.buildTransform(*profiles, inMode="RGB", outMode="LAB")
        )
        assert image is not None
    else:
        image = corners().convert(middle).convert(mode)
    assert image.mode == mode
    seen = np.asarray(shown_pixels(image)).astype(int)
    plain = "1" if mode == "1" else "L" if mode in ("L", "LA", "La", "PA") else "RGB"
    wanted = np.asarray(corners().convert(plain).convert("RGB"))
    np.testing.assert_allclose(seen[4, 4], wanted[4, 4], atol=LOSSY)
    np.testing.assert_allclose(seen[-4, -4], WHITE, atol=LOSSY)


def test_a_jpeg_in_cmyk_has_its_colours() -> None:
    seen = shown(saved(corners().convert("CMYK"), "JPEG", quality=95))
    for row, column in ((3, 3), (3, -4), (-4, 3), (-4, -4)):
        np.testing.assert_allclose(seen[row, column], np.asarray(corners())[row, column], atol=2 * LOSSY)
