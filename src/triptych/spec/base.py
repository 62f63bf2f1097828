"""What every declared file has in common: a frozen pydantic model, read from YAML, with exact errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails


class SpecError(ValueError):
    """A declaration is wrong. `str()` is one line: file, field, what is wrong and the mend."""

    def __init__(self, field: str, problem: str, *, file: str | Path | None = None) -> None:
        self.file = str(file) if file is not None else None
        self.field = field
        self.problem = problem
        where = [part for part in (self.file, field) if part]
        super().__init__(": ".join([*where, problem]))


class Spec(BaseModel):
    """Base of every declaration: frozen, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls, data: object, *, file: str | Path | None = None) -> Self:
        """Validates plain data (what YAML gives).

        Raises:
            SpecError: the first thing that is wrong, in one line.
        """
        if not isinstance(data, Mapping):
            found = "nothing" if data is None else type(data).__name__
            raise SpecError("", f"expected a mapping of fields, found {found}", file=file)
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            raise _first_problem(data, error, file) from None

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """Reads a YAML file, applies `key.path=value` overrides, validates.

        Raises:
            SpecError: the file is missing, is not YAML, or declares something wrong.
        """
        data = read_yaml(path)
        for override in overrides:
            apply_override(data, override)
        return cls.parse(data, file=path)

    def to_yaml(self) -> str:
        """The declaration as YAML that `load` reads back to an equal object."""
        data = self.model_dump(mode="json", exclude_none=True, by_alias=True)
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def read_yaml(path: str | Path) -> Any:
    """The plain data of a YAML file.

    Raises:
        SpecError: the file is missing, unreadable or not YAML.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError("", "no such file", file=path) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a UTF-8 text file"
        raise SpecError("", f"cannot be read: {reason}", file=path) from None
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise SpecError(line, f"not valid YAML: {problem}", file=path) from None


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
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise SpecError(f"--set {override}", "the value is not valid YAML") from None
    node = data
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(node, list):
            if not key.isdigit() or int(key) >= len(node):
                at = ".".join(keys[:depth])
                raise SpecError(f"--set {override}", f"{at} is a list of {len(node)}: use an index")
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


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML in which a key given twice is an error instead of the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (str, int, float, bool)) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            if isinstance(key, (str, int, float, bool)):
                seen.add(key)
        return super().construct_mapping(node, deep)


def _first_problem(data: Any, error: ValidationError, file: str | Path | None) -> SpecError:
    """The first of pydantic's errors as one line."""
    details = error.errors(include_url=False)
    first = details[0]
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return SpecError(_field(data, first["loc"]), _wording(first) + more, file=file)


def _field(data: Any, location: tuple[int | str, ...]) -> str:
    """The dotted path to a field, without the names of union members that pydantic puts in between."""
    parts = []
    for part in location:
        if isinstance(data, Mapping) and part not in data and part == data.get("kind"):
            continue
        parts.append(str(part))
        if isinstance(data, Mapping):
            data = data.get(part)
        elif isinstance(data, Sequence) and isinstance(part, int) and part < len(data):
            data = data[part]
    return ".".join(parts)


def _wording(detail: ErrorDetails) -> str:
    """One pydantic error in plain words, with the mend where there is one."""
    kind, given = detail["type"], detail.get("input")
    if kind == "missing":
        return "missing; give it a value"
    if kind == "extra_forbidden":
        return "no such field; remove it or mend its spelling"
    if kind in ("value_error", "assertion_error"):
        return detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = detail["msg"].removeprefix("Input ").replace("should be", "must be")
    if isinstance(given, (str, int, float, bool)) or given is None:
        return f"{message}, not {given!r}"
    return message
