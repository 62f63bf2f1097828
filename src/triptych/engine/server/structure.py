"""How deep JSON is nested and how many values it has, told without building any of it.

No request needs a hundred levels or a million lists. What would be built of that takes gigabytes, seconds in
which nothing else runs, or the stack.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.engine.server.errors import invalid

MAX_DEPTH = 64
MAX_VALUES = 1_000_000
"""Lists, objects, and what is in them."""
_MEMBER = 4
"""Values that a member of an object counts for: it is as much work."""
_STEP = 2**20
"""Bytes that are looked at in one go: other threads run in between."""
_COMMA, _COLON, _QUOTE, _SLASH = b',:"\\'
_OPENING, _CLOSING = b"[{", b"]}"


def check_structure(body: bytes | bytearray) -> None:
    """Refuses what is too deep or has too many values.

    Raises:
        ApiError: status 400.
    """
    if len(body) <= MAX_VALUES and sum(body.count(letter) for letter in _OPENING) <= MAX_DEPTH:
        return
    depth, values, scan = 0, 0, _Scan()
    for begin in range(0, len(body), _STEP):
        piece = np.frombuffer(body, np.uint8, min(_STEP, len(body) - begin), begin)
        outside = scan.outside_strings(piece)
        if not len(outside):
            continue
        opened = _any_of(outside, _OPENING)
        steps = opened.astype(np.int8) - _any_of(outside, _CLOSING)
        depths = depth + np.cumsum(steps, dtype=np.int64)
        depth = int(depths[-1])
        values += int(np.count_nonzero(opened) + np.count_nonzero(outside == _COMMA))
        values += _MEMBER * int(np.count_nonzero(outside == _COLON))
        if int(depths.max()) > MAX_DEPTH:
            raise invalid(f"the body is nested more than {MAX_DEPTH} deep")
        if values > MAX_VALUES:
            raise invalid(f"the body has more than {MAX_VALUES:,} values; send fewer at once")


class _Scan:
    """Tells strings of JSON from what is between them, piece by piece."""

    def __init__(self) -> None:
        self._inside = False
        """Whether the last piece ended within a string."""
        self._escaping = False
        """Whether it ended with a backslash that escapes what comes."""

    def outside_strings(self, piece: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The bytes that are no part of a string, a quote for each string among them."""
        quotes = piece == _QUOTE
        quotes[self._escaped(piece)] = False
        inside = np.logical_xor.accumulate(quotes)
        if self._inside:
            inside = ~inside
        self._inside = bool(inside[-1])
        return piece[~inside]

    def _escaped(self, piece: NDArray[np.uint8]) -> NDArray[Any]:
        """Places behind a run of backslashes of odd length."""
        places = np.flatnonzero(piece == _SLASH)
        begins_run = np.diff(places, prepend=-2) > 1
        begins, ends = places[begins_run], places[np.append(begins_run[1:], True)[: len(places)]]
        odd = (ends - begins) % 2 == 0
        carried = np.zeros(0, np.intp)
        if self._escaping:
            if len(begins) and begins[0] == 0:
                odd[0] = not odd[0]
            else:
                carried = np.zeros(1, np.intp)
        behind = ends[odd] + 1
        self._escaping = bool(len(behind) and behind[-1] == len(piece))
        return np.concatenate([carried, behind[behind < len(piece)]])


def _any_of(piece: NDArray[np.uint8], letters: bytes) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = np.isin(piece, list(letters))
    return found
