"""The lines of a trace that is text: with or without a byte order mark, plain or compressed."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from triptych.spec.base import SpecError

_GZIP = b"\x1f\x8b"


def text_lines(path: Path, kind: str) -> Iterator[str]:
    """Its lines one by one, without their ends; empty ones at the end of the file are left out.

    Args:
        path: of a text in UTF-8, which may be compressed by gzip, whatever it is called.
        kind: what it is read as, for errors.

    Raises:
        SpecError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP
        opened = gzip.open if packed else open
        empty = 0
        with opened(path, "rt", encoding="utf-8-sig") as lines:
            for line in lines:
                if not line.strip():
                    empty += 1
                    continue
                yield from [""] * empty
                empty = 0
                yield line.rstrip("\r\n")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise SpecError("", f"cannot be read as {kind}: {error}", file=path) from None
