"""Declarations in general: reading, overriding, writing back, and the one line that says what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from triptych.spec.base import Spec, SpecError, apply_override, did_you_mean, read_yaml
from triptych.spec.yaml import parse_yaml


class Wheel(Spec):
    kind: Literal["wheel"] = "wheel"
    spokes: int = Field(default=32, gt=0)


class Ski(Spec):
    kind: Literal["ski"]
    length: float


class Vehicle(Spec):
    name: str
    weight: float = 1.0
    parts: dict[str, Wheel] = Field(default={})
    ride: Wheel | Ski | None = Field(default=None, discriminator="kind")
    stops: tuple[str, ...] = ()
    origin: str | None = Field(default=None, alias="from")


def problem(data: object, file: str | None = "v.yaml") -> str:
    with pytest.raises(SpecError) as caught:
        Vehicle.parse(data, file=file)
    return str(caught.value)


class TestErrors:
    def test_they_tell_file_field_and_problem_apart(self) -> None:
        error = SpecError("a.b", "is wrong", file=Path("x/v.yaml"))
        assert (error.file, error.field, error.problem) == ("x/v.yaml", "a.b", "is wrong")
        assert str(error) == "x/v.yaml: a.b: is wrong"

    def test_what_is_not_known_is_left_out(self) -> None:
        assert str(SpecError("", "is wrong")) == "is wrong"
        assert problem({}, file=None) == "name: missing; give it a value"

    def test_they_are_value_errors(self) -> None:
        assert issubclass(SpecError, ValueError)

    @given(st.text(max_size=30))
    def test_they_are_one_line_whatever_they_quote(self, text: str) -> None:
        assert len(str(SpecError(f"x{text}", "wrong")).splitlines()) == 1

    def test_members_of_unions_are_not_part_of_the_field(self) -> None:
        assert (
            problem({"name": "a", "ride": {"kind": "ski"}}) == "v.yaml: ride.length: missing; give it a value"
        )

    def test_fields_are_called_as_they_are_written(self) -> None:
        assert problem({"name": "a", "from": 3}).startswith("v.yaml: from: must be text, not 3")
        assert "did you mean 'from'?" in problem({"name": "a", "form": "here"})

    @pytest.mark.parametrize(
        ("data", "says"),
        [
            ({"nam": "a"}, "nam: no such field; did you mean 'name'?"),
            (
                {"name": "a", "colour": 1},
                "colour: no such field; use one of name, weight, parts, ride, stops, from",
            ),
            ({"name": "a", 3: 1}, "3: no such field; use one of name, weight, parts, ride, stops, from"),
            (
                {"name": "a", "parts": {"w": {"spoke": 3}}},
                "parts.w.spoke: no such field; did you mean 'spokes'?",
            ),
            ({"name": True}, "name: must be text, not true; put it in quotes"),
            ({"name": {}}, "name: must be text, not a mapping"),
            ({"name": None}, "name: has no value; it must be text"),
            ({"name": "a", "weight": "heavy"}, "weight: must be a number, not 'heavy'"),
            ({"name": "a", "weight": "x" * 99}, f"weight: must be a number, not '{'x' * 39}..."),
            ({"name": "a", "weight": float("nan")}, "weight: must be a finite number, not nan"),
            ({"name": "a", "parts": {"w": 4}}, "parts.w: must be a mapping of fields, not 4"),
            (
                {"name": "a", "parts": {"w": {"spokes": 2.5}}},
                "parts.w.spokes: must be a whole number, not 2.5",
            ),
            ({"name": "a", "parts": {"w": {"spokes": -2}}}, "parts.w.spokes: must be greater than 0, not -2"),
            ({"name": "a", "stops": "b"}, "stops: must be a list, not 'b'"),
            ({"name": "a", "stops": ["b", 3]}, "stops.1: must be text, not 3; put it in quotes"),
            ([1], "expected a mapping of fields, found a list"),
            (None, "expected a mapping of fields, found nothing"),
        ],
    )
    def test_in_plain_words(self, data: object, says: str) -> None:
        assert problem(data) == f"v.yaml: {says}"

    def test_further_ones_are_named(self) -> None:
        assert problem({"stops": 3}) == (
            "v.yaml: name: missing; give it a value (also wrong: stops: must be a list, not 3)"
        )

    def test_of_many_the_fields_are_named(self) -> None:
        data = {"weight": "x", "stops": 3, "parts": 4}
        assert problem(data) == "v.yaml: name: missing; give it a value (also wrong: weight; parts; stops)"

    def test_a_close_name_is_offered(self) -> None:
        assert did_you_mean("instance", ["device", "instances"]) == "did you mean 'instances'?"
        assert did_you_mean("colour", ["device", "instances"]) == ""
        assert did_you_mean(7, ["device"]) == ""


class TestLoad:
    def write(self, folder: Path, text: str) -> Path:
        path = folder / "v.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    def test_a_file_with_overrides(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "name: sledge\nride: {kind: ski, length: 1.5}\n")
        vehicle = Vehicle.load(path, ["ride.length=2", "parts.left={spokes: 28}", "from=[Oslo]", "from=Oslo"])
        assert vehicle.ride == Ski(kind="ski", length=2.0)
        assert vehicle.parts == {"left": Wheel(spokes=28)}
        assert vehicle.origin == "Oslo"

    def test_errors_name_the_file(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "name: sledge\n")
        with pytest.raises(SpecError, match=r"v\.yaml: weight: must be a number, not 'x'"):
            Vehicle.load(path, ["weight=x"])

    @pytest.mark.parametrize(
        ("override", "says"),
        [
            ("parts.lft.spokes=28", "--set parts.lft.spokes=28: no part 'lft'; did you mean 'left'?"),
            (
                "parts.rear.spokes=28",
                "--set parts.rear.spokes=28: no part 'rear'; add a new one whole: --set 'parts.rear={...}'",
            ),
        ],
    )
    def test_a_field_makes_no_member_of_a_mapping(self, tmp_path: Path, override: str, says: str) -> None:
        path = self.write(tmp_path, "name: sledge\nparts: {left: {spokes: 7}}\n")
        with pytest.raises(SpecError) as caught:
            Vehicle.load(path, [override])
        assert str(caught.value) == says

    def test_a_member_can_be_changed_added_whole_and_then_changed(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "name: sledge\nparts: {left: {spokes: 7}}\n")
        overrides = ["parts.left.spokes=8", "parts.rear={spokes: 1}", "parts.rear.spokes=2"]
        assert Vehicle.load(path, overrides).parts == {"left": Wheel(spokes=8), "rear": Wheel(spokes=2)}

    def test_an_override_does_not_fill_an_empty_file(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match="expected a mapping of fields, found nothing"):
            Vehicle.load(self.write(tmp_path, ""), ["name=a"])

    def test_shared_settings_may_be_merged_and_given_again(self, tmp_path: Path) -> None:
        text = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, y: 3}\nc: {<<: *b, x: 4}\n"
        assert read_yaml(self.write(tmp_path, text))["c"] == {"x": 4, "y": 3}

    def test_a_mapping_that_is_referred_to_twice_is_no_repetition(self, tmp_path: Path) -> None:
        text = "a: &a {x: 1}\nb: *a\n"
        assert read_yaml(self.write(tmp_path, text)) == {"a": {"x": 1}, "b": {"x": 1}}

    def test_what_is_declared_does_not_change(self) -> None:
        vehicle = Vehicle.parse({"name": "a"})
        with pytest.raises(ValueError, match="frozen"):
            vehicle.name = "b"


class TestOverride:
    def data(self) -> dict[str, Any]:
        return {"a": {"b": [1, {"c": 2}, [3, 4]]}, "d": 5}

    @pytest.mark.parametrize(
        ("override", "path", "value"),
        [
            ("d=6", ["d"], 6),
            ("new=x", ["new"], "x"),
            ("a.b.0=7", ["a", "b", 0], 7),
            ("a.b.1.c=8", ["a", "b", 1, "c"], 8),
            ("a.b.1.e.f=9", ["a", "b", 1, "e", "f"], 9),
            ("a.b.2.1=0", ["a", "b", 2, 1], 0),
            ("a.b=[]", ["a", "b"], []),
            ("x.y.z={k: [1, 2]}", ["x", "y", "z"], {"k": [1, 2]}),
            ("d=", ["d"], None),
            ("d= 80 GB", ["d"], "80 GB"),
            ("d=a=b", ["d"], "a=b"),
            (" d =true", ["d"], None),
        ],
    )
    def test_sets_one_value(self, override: str, path: list[str | int], value: object) -> None:
        data: Any = self.data()
        if override == " d =true":
            value = True
        apply_override(data, override)
        for part in path:
            data = data[part]
        assert data == value

    def test_leaves_the_rest_alone(self) -> None:
        data = self.data()
        apply_override(data, "a.b.1.c=8")
        assert data == {"a": {"b": [1, {"c": 8}, [3, 4]]}, "d": 5}

    @pytest.mark.parametrize(
        ("override", "says"),
        [
            ("d", "--set d: write it as path.to.field=value"),
            ("=3", "--set =3: write it as path.to.field=value"),
            ("a..b=3", "--set a..b=3: write it as path.to.field=value"),
            ("d.e=3", "--set d.e=3: d is a plain value and has no field 'e'"),
            ("a.b.0.e=3", "--set a.b.0.e=3: a.b.0 is a plain value and has no field 'e'"),
            ("a.b.3=3", "--set a.b.3=3: a.b is a list of 3; count from 0"),
            ("a.b.c=3", "--set a.b.c=3: a.b is a list of 3; count from 0"),
            ("a.b.-1=3", "--set a.b.-1=3: a.b is a list of 3; count from 0"),
            (
                "d={",
                "--set d={: the value is not valid YAML: expected the node content, but found '<stream end>'",
            ),
            (
                "d={x: 1, x: 2}",
                "--set d={x: 1, x: 2}: the value is not valid YAML: the key 'x' is given twice; remove one",
            ),
        ],
    )
    def test_says_what_it_cannot_set(self, override: str, says: str) -> None:
        with pytest.raises(SpecError) as caught:
            apply_override(self.data(), override)
        assert str(caught.value) == says


names = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=12)
wheels = st.builds(Wheel, spokes=st.integers(1, 10**6))
numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(
    name=names,
    weight=numbers,
    parts=st.dictionaries(names, wheels, max_size=3),
    ride=st.none() | wheels | st.builds(Ski, kind=st.just("ski"), length=numbers),
    stops=st.lists(names, max_size=3),
    origin=st.none() | names,
)
def test_a_declaration_comes_back_from_its_own_yaml(
    name: str,
    weight: float,
    parts: dict[str, Wheel],
    ride: Wheel | Ski | None,
    stops: list[str],
    origin: str | None,
) -> None:
    vehicle = Vehicle.parse(
        {"name": name, "weight": weight, "parts": parts, "ride": ride, "stops": stops, "from": origin}
    )
    assert Vehicle.parse(parse_yaml(vehicle.to_yaml())) == vehicle
