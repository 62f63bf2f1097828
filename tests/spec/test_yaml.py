"""YAML as plain data: which values a text means, what is refused, and where."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.spec.base import SpecError, read_yaml
from triptych.spec.deployment import Deployment
from triptych.spec.workload import WorkloadSpec
from triptych.spec.yaml import NotYamlError, dump_yaml, parse_yaml


class TestValues:
    @pytest.mark.parametrize(
        ("written", "meant"),
        [
            ("100", 100),
            ("0100", 100),
            ("09", 9),
            ("0o100", 64),
            ("0x1F", 31),
            ("1_000", 1000),
            ("1e6", 1e6),
            ("1.5E-3", 0.0015),
            ("-.5", -0.5),
            (".inf", float("inf")),
            ("1:30", "1:30"),
            ("1,000", "1,000"),
            ("1.2.3", "1.2.3"),
            ("2024-05-13", "2024-05-13"),
            ("2024-13-99", "2024-13-99"),
            ("2024-05-13 10:00:00+02:00", "2024-05-13 10:00:00+02:00"),
            *((word, True) for word in ("true", "True", "TRUE")),
            *((word, word) for word in ("yes", "Yes", "no", "on", "off", "y", "n", "=", "<<", "0o9")),
            *((word, None) for word in ("", "~", "null")),
            ("!!str 100", "100"),
            ("'100'", "100"),
        ],
    )
    def test_are_those_of_yaml_1_2(self, written: str, meant: object) -> None:
        found = parse_yaml(f"a: {written}\n")["a"]
        assert (type(found), found) == (type(meant), meant)

    def test_a_byte_order_mark_is_no_text(self) -> None:
        assert parse_yaml("\ufeffa: 1") == {"a": 1}


class TestMerging:
    @pytest.mark.parametrize(
        ("text", "merged"),
        [
            ("{<<: *a, y: 3}", {"x": 1, "y": 3}),
            ("{y: 3, <<: *a}", {"x": 1, "y": 3}),
            ("{<<: *b, x: 4}", {"x": 4, "y": 5, "z": 6}),
            ("{<<: [*a, {x: 7, z: 8}]}", {"x": 1, "y": 2, "z": 8}),
        ],
    )
    def test_what_is_merged_gives_way(self, text: str, merged: dict[str, int]) -> None:
        shared = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, y: 5, z: 6}\n"
        assert parse_yaml(f"{shared}c: {text}\n")["c"] == merged
        assert parse_yaml(f"{shared}c: {text}\n")["b"] == {"x": 1, "y": 5, "z": 6}

    def test_an_anchor_may_be_given_again(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert parse_yaml("a: &x 1\nb: &x 2\nc: *x\n") == {"a": 1, "b": 2, "c": 2}


class TestRefused:
    @pytest.mark.parametrize(
        ("text", "line", "says"),
        [
            ("a: 1\na: 2", 2, "the key 'a' is given twice; remove one"),
            ("1: 1\n1.0: 2", 2, "the key '1.0' is given twice; remove one"),
            ("x: {y: 1, <<: {z: 1}, y: 2}", 1, "the key 'y' is given twice; remove one"),
            ("x: {<<: {y: 1}, <<: {z: 1}}", 1, "the key '<<' is given twice; remove one"),
            ("a:\n  !!int b", 2, "'b' cannot be read as a value; correct it, or put it in quotes"),
            ('a:\n  "\\ud800"', 2, "cannot be read as a value"),
            (f"a: {'9' * 5000}", 1, f"'{'9' * 39}... cannot be read as a value"),
            ("a: !!set {b}", 1, "the tag tag:yaml.org,2002:set is not known; remove it"),
            ("a: !!python/object:os.system b", 1, "is not known; remove it"),
            ("a: 1\n\x07", 2, "the character U+0007 is not allowed; remove it"),
            ("a: 1\n---\nb: 2", 2, "expected a single document in the stream, but found another document"),
            ("a: 1\nb: @c", 2, "found character '@' that cannot start any token"),
            ("a: 1\nb: *c", 2, "found undefined alias 'c'"),
            ("a: '", 1, "unexpected end of stream"),
            ("[" * 5000, None, "nested too deeply"),
            ('"\\UFFFFFFFF"', None, "not readable"),
            ("? [[1], [2]]\n: 3", None, ""),
        ],
    )
    def test_says_where_and_why(self, text: str, line: int | None, says: str) -> None:
        with pytest.raises(NotYamlError) as caught:
            parse_yaml(text)
        assert says in str(caught.value)
        assert caught.value.line == line


MARKS = list("ab1-?:,{}[]&!%|>'\"\\#~@")
PIECES = ["&x", "*x", "<<: ", "!!int ", "!!map ", "!<", "%TAG", "0o7", "\\u", "\\ud800", "pools", "model"]
SPACES = ["\n", "\n  ", " ", "\t", "- ", ": ", "? ", ", ", "%YAML 1.1\n", "---\n"]
STRANGE = ["\x00", "\x85", "\u2028", "\ufeff", "\ud800", "\U0001f600"]
TOKENS = st.sampled_from([*MARKS, *PIECES, *SPACES, *STRANGE])


@given(st.lists(TOKENS, max_size=14).map("".join) | st.text(max_size=20))
def test_no_text_raises_anything_else(text: str) -> None:
    try:
        data = parse_yaml(text)
    except NotYamlError:
        return
    for spec in (Deployment, WorkloadSpec):
        if isinstance(data, dict) and data:
            with pytest.raises(SpecError):
                spec.parse(data)


@given(data=st.binary(max_size=12))
def test_no_file_raises_anything_else(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(data)
    try:
        read_yaml(file)
    except SpecError as error:
        assert len(str(error).splitlines()) == 1


WORDS = ["yes", "0100", "1:30", "1e6", "1_0", "~", "null", "<<", "=", "2024-05-13", "", " x ", "- a", "a: b"]
TEXTS = st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=12)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)


@given(st.recursive(SCALARS, _nested, max_leaves=8))
def test_what_is_written_is_read_back(data: Any) -> None:
    assert parse_yaml(dump_yaml(data)) == data
