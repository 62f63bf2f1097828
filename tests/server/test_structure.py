"""Depth and size of JSON, told from its bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.engine.server import structure
from triptych.engine.server.errors import ApiError
from triptych.engine.server.structure import check_structure

TRICKY = st.text(alphabet='a"\\[]{},:', max_size=6)
VALUES = st.recursive(
    TRICKY,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TRICKY, inner, max_size=3),
    max_leaves=12,
)


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


def size(value: Any) -> int:
    """Lists, objects and commas, and four for each member."""
    if isinstance(value, str):
        return 0
    inner = list(value.values()) if isinstance(value, dict) else value
    members = 4 * len(inner) if isinstance(value, dict) else 0
    return 1 + max(len(inner) - 1, 0) + members + sum(map(size, inner))


@given(VALUES, st.integers(1, 40))
def test_limits_hold_to_the_one_wherever_it_is_cut(value: Any, step: int) -> None:
    body = json.dumps(value).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structure, "_STEP", step)
        for deepest, most in (
            (depth(value), size(value)),
            (depth(value) - 1, 10**6),
            (10**6, size(value) - 1),
        ):
            patch.setattr(structure, "MAX_DEPTH", deepest)
            patch.setattr(structure, "MAX_VALUES", min(most, len(body) - 1))
            fits = deepest >= depth(value) and most >= size(value)
            if most >= len(body):
                patch.setattr(structure, "MAX_VALUES", most)
            try:
                check_structure(body)
            except ApiError as error:
                assert error.status == 400
                assert not fits
            else:
                assert fits


@pytest.mark.parametrize(
    "body", [b"[" * 65, b'{"a":' * 500, b'[{"a":' * 10**6, b'{"x":"\\"","y":' + b"[" * 65]
)
def test_what_is_nested_too_deeply_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError, match="nested more than 64 deep"):
        check_structure(body)


@pytest.mark.parametrize("piece", [b"1,", b"[],", b'"",', b'"a":1,'])
def test_so_are_too_many_values(piece: bytes) -> None:
    with pytest.raises(ApiError, match="more than 1,000,000 values"):
        check_structure(b"[" + piece * 1_100_000)


@pytest.mark.parametrize("text", [b"[" * 3 * 2**20, b"," * 3 * 2**20, b'\\"' * 2**20, b"\\\\" * 2**20])
def test_a_text_may_hold_anything(text: bytes) -> None:
    check_structure(b'{"prompt":"' + text + b'"}')
    with pytest.raises(ApiError):
        check_structure(b'{"prompt":"' + text + b'",' + b"[" * 65)
