"""What every declared file has in common: a frozen pydantic model, read from YAML, with exact errors."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Self, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from triptych.spec.yaml import NotYamlError, dump_yaml, parse_yaml

_CLOSE = 0.7
"""Likeness (of `difflib`) from which a name is taken to be a misspelling of another."""
_LONG = 40
"""Characters of a wrong value that an error shows."""
_MANY = 3
"""Up to so many problems are reported in full; of more, all but the first by their fields."""


class SpecError(ValueError):
    """A declaration is wrong. `str()` is one line: file, field, what is wrong and the fix."""

    def __init__(self, field: str, problem: str, *, file: str | Path | None = None) -> None:
        self.file = str(file) if file is not None else None
        self.field = field
        self.problem = problem
        where = [part for part in (self.file, field) if part]
        super().__init__(_one_line(": ".join([*where, problem])))


class Spec(BaseModel):
    """Base of every declaration: frozen, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _only_known_fields(cls, data: Any) -> Any:
        """Refuses an unknown field before anything else: a misspelt one is not reported as missing."""
        if not isinstance(data, Mapping):
            return data
        names = [field.alias or name for name, field in cls.model_fields.items()]
        for given in data:
            if given not in names:
                fix = did_you_mean(given, names) or f"use one of {', '.join(names)}"
                problem = PydanticCustomError("unknown_field", "no such field; {fix}", {"fix": fix})
                wrong = InitErrorDetails(type=problem, loc=(str(given),), input=data[given])
                raise ValidationError.from_exception_data(cls.__name__, [wrong])
        return data

    @classmethod
    def parse(cls, data: object, *, file: str | Path | None = None) -> Self:
        """Validates plain data (what YAML gives).

        Raises:
            SpecError: what is wrong, in one line.
        """
        _check_mapping(data, file)
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise _problems(data, error, file) from None

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """Reads a YAML file, applies `key.path=value` overrides, validates.

        Raises:
            SpecError: the file is missing, is not YAML, or declares something wrong; or an override has a
                wrong path.
        """
        data = read_yaml(path)
        _check_mapping(data, path)
        for override in overrides:
            cls._check_member(data, override)
            apply_override(data, override)
        return cls.parse(data, file=path)

    @classmethod
    def _check_member(cls, data: Any, override: str) -> None:
        """Refuses to set a field of a member that there is not, where the user names the members.

        Raises:
            SpecError: as said; the name is misspelt, or the member has to be given whole.
        """
        mapping, _, below = override.partition("=")[0].strip().partition(".")
        member, dot, _ = below.partition(".")
        fields = {field.alias or name: field for name, field in cls.model_fields.items()}
        if not dot or mapping not in fields or get_origin(fields[mapping].annotation) is not dict:
            return
        members = data.get(mapping) or {}
        if isinstance(members, Mapping) and member not in map(str, members):
            whole = f"add a new one whole: --set '{mapping}.{member}={{...}}'"
            problem = f"no {mapping.removesuffix('s')} {member!r}; {did_you_mean(member, members) or whole}"
            raise SpecError(f"--set {override}", problem)

    def to_yaml(self) -> str:
        """The declaration as YAML that `load` reads back to an equal object, all defaults included."""
        data = self.model_dump(mode="json", by_alias=True)
        return dump_yaml(data)


def read_yaml(path: str | Path) -> Any:
    """The plain data of a YAML file.

    Raises:
        SpecError: the file is missing, unreadable or not YAML.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError("", "no such file; correct the path", file=path) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a UTF-8 text file"
        raise SpecError("", f"cannot be read: {reason}", file=path) from None
    try:
        return parse_yaml(text)
    except NotYamlError as error:
        field = "" if error.line is None else f"line {error.line}"
        raise SpecError(field, f"not valid YAML: {error}", file=path) from None


def did_you_mean(given: object, names: Iterable[str]) -> str:
    """`did you mean 'instances'?`, or nothing if none of the names is close to what was given."""
    near = difflib.get_close_matches(str(given), names, n=1, cutoff=_CLOSE)
    return f"did you mean {near[0]!r}?" if near else ""


def apply_override(data: Any, override: str) -> None:
    """Sets `a.b.c=value` (value read as YAML) in plain nested mappings and lists.

    Raises:
        SpecError: there is no `=`, or the path runs through something that has no fields.
    """
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise SpecError(f"--set {override}", "write it as path.to.field=value")
    try:
        value = parse_yaml(text)
    except NotYamlError as error:
        raise SpecError(f"--set {override}", f"the value is not valid YAML: {error}") from None
    node = data
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(node, list):
            if not key.isdigit() or int(key) >= len(node):
                at = ".".join(keys[:depth])
                raise SpecError(f"--set {override}", f"{at} is a list of {len(node)}; count from 0")
            index = int(key)
            node[index], node = (value, value) if last else (node[index], node[index])
        elif isinstance(node, dict):
            if last:
                node[key] = value
            else:
                node = node.setdefault(key, {})
        else:
            at = ".".join(keys[:depth])
            raise SpecError(f"--set {override}", f"{at} is a plain value and has no field {key!r}")


def _one_line(text: str) -> str:
    """The text with line breaks and other control characters, which file or user may hold, written out."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _check_mapping(data: object, file: str | Path | None) -> None:
    if not isinstance(data, Mapping):
        found = "nothing" if data is None else _KINDS.get(type(data), type(data).__name__)
        raise SpecError("", f"expected a mapping of fields, found {found}", file=file)


def _problems(data: Any, error: ValidationError, file: str | Path | None) -> SpecError:
    """Pydantic's errors as one line: the first as its subject, the others after it."""
    problems: dict[str, str] = {}
    for detail in error.errors(include_url=False):
        problems.setdefault(_field(data, detail["loc"]), _wording(detail))
    (field, problem), *others = problems.items()
    reported = [": ".join(filter(None, other)) if len(problems) <= _MANY else other[0] for other in others]
    also = f" (also wrong: {'; '.join(reported)})" if reported else ""
    return SpecError(field, problem + also, file=file)


def _field(data: Any, location: tuple[int | str, ...]) -> str:
    """The dotted path to a field, without what pydantic puts in between: union members, `[key]`."""
    parts = []
    for part in location:
        if isinstance(data, Mapping) and part not in data and part in (data.get("kind"), "[key]"):
            continue
        parts.append(str(part))
        if isinstance(data, Mapping):
            data = data.get(part)
        elif isinstance(data, Sequence) and isinstance(part, int) and part < len(data):
            data = data[part]
    return ".".join(parts)


_KINDS: dict[type, str] = {
    dict: "a mapping",
    list: "a list",
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    NoneType: "nothing",
}
_EXPECTED = {
    "bool": "true or false",
    "dict": "a mapping",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "model": "a mapping of fields",
    "string": "text",
    "tuple": "a list",
}
"""What a value must be, by how the names of pydantic's errors begin (`int_parsing`, `model_type`)."""


def _wording(detail: ErrorDetails) -> str:
    """One pydantic error in plain words, with the fix where there is one."""
    kind, given = detail["type"], detail.get("input")
    if kind == "missing":
        return "missing; give it a value"
    if kind in ("value_error", "assertion_error"):
        return detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if kind in ("too_short", "string_too_short"):
        return "is empty; give at least one" if kind == "too_short" else "is empty; give it a value"
    if kind == "unknown_field":
        return detail["msg"]
    start, _, rest = kind.partition("_")
    if start in _EXPECTED and rest in ("type", "parsing", "from_float", "parsing_size"):
        if given is None:
            return f"has no value; it must be {_EXPECTED[start]}"
        fix = "; put it in quotes" if start == "string" and isinstance(given, (bool, int, float)) else ""
        return f"must be {_EXPECTED[start]}, not {shown(given)}{fix}"
    message = detail["msg"].removeprefix("Input ").replace("should be", "must be")
    if kind == "literal_error":
        names = detail["ctx"]["expected"].replace(" or ", ", ").split(", ")
        fix = did_you_mean(given, [name.strip("'") for name in names])
        return f"{message}, not {shown(given)}" + (f"; {fix}" if fix else "")
    return f"{message}, not {shown(given)}"


def shown(given: object) -> str:
    """A wrong value as an error shows it: plain ones as they were given, cut short; of others the kind."""
    if isinstance(given, (dict, list)):
        return _KINDS[type(given)]
    try:
        text = str(given).lower() if isinstance(given, bool) else repr(given)
    except ValueError:  # Python prints no number of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= _LONG else f"{text[:_LONG]}..."
