"""Typed look-ups in the fields of a Hugging Face configuration, with errors that name field and file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from triptych.spec.base import SpecError, shown

_LARGEST = 1_000_000_000
"""No size of a model comes near it; what is computed from larger ones may overflow."""


class Fields:
    """The fields of one configuration mapping. A field that is null counts as absent."""

    def __init__(
        self, values: Mapping[str, Any], *, inside: str = "", file: str | Path | None = None
    ) -> None:
        self._values = values
        self._inside = inside
        self._file = file

    def gives(self, name: str) -> bool:
        """Whether the field is there at all, be it null."""
        return name in self._values

    def count(self, *names: str, default: int | None = None, most: int = _LARGEST) -> int:
        """The positive integer under the first of `names` that is given, else `default`.

        Raises:
            SpecError: the value is no positive integer up to `most`, or it is absent and has no default.
        """
        for name in names:
            value = self._values.get(name)
            if value is None:
                continue
            whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
            if isinstance(value, bool) or not whole or value <= 0:
                raise self.wrong(name, f"must be a positive integer, not {shown(value)}")
            if value > most:
                raise self.wrong(name, f"must be at most {most}; correct the number")
            return int(value)
        if default is None:
            raise self.wrong(names[0], "missing; give it a value")
        return default

    def flag(self, name: str, *, default: bool) -> bool:
        """A boolean field.

        Raises:
            SpecError: the value is neither true nor false.
        """
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(name, f"must be true or false, not {shown(value)}")
        return value

    def factor(self, name: str, *, default: float) -> float:
        """A number of at least 1.

        Raises:
            SpecError: the value is no such number.
        """
        value = self._values.get(name)
        if value is None:
            return default
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 1 <= value <= _LARGEST:
            raise self.wrong(name, f"must be a number of at least 1, not {shown(value)}")
        return float(value)

    def word(self, name: str) -> str | None:
        """A word; None where it is absent or something else."""
        value = self._values.get(name)
        return value if isinstance(value, str) else None

    def mappings(self) -> list[Fields]:
        """The fields of each mapping inside this one."""
        return [self.nested(name) for name, value in self._values.items() if isinstance(value, Mapping)]

    def whole(self, name: str, *, default: int) -> int:
        """A count that may be zero.

        Raises:
            SpecError: the value is no such number.
        """
        if self._values.get(name, default) == 0:
            return 0
        return self.count(name, default=default)

    def indices(self, name: str, *, default: tuple[int, ...]) -> tuple[int, ...]:
        """A list of layer numbers, counted from zero.

        Raises:
            SpecError: the value is no list of such numbers.
        """
        value = self._values.get(name)
        if value is None:
            return default
        numbers = value if isinstance(value, list) else [None]
        if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers):
            raise self.wrong(name, f"must be a list of layer numbers, not {shown(value)}")
        return tuple(numbers)

    def words(self, name: str) -> tuple[str, ...] | None:
        """A list of words; None where it is absent.

        Raises:
            SpecError: the value is no such list.
        """
        value = self._values.get(name)
        if value is None:
            return None
        words = value if isinstance(value, list) else [None]
        if not all(isinstance(word, str) for word in words):
            raise self.wrong(name, f"must be a list of words, not {shown(value)}")
        return tuple(words)

    def nested(self, name: str, *, default: Mapping[str, Any] | None = None) -> Fields:
        """The fields of a mapping inside this one.

        Raises:
            SpecError: the value is no mapping, or it is absent and has no default.
        """
        value = self._values.get(name)
        if value is None:
            value = default
        if value is None:
            raise self.wrong(name, "missing; give it a value")
        if not isinstance(value, Mapping):
            raise self.wrong(name, f"must be a mapping of fields, not {shown(value)}")
        return Fields(value, inside=self._path(name), file=self._file)

    def with_defaults(self, outer: Fields) -> Fields:
        """These fields, and those of `outer` that are not given here."""
        merged = {**outer._values, **self._values}
        return Fields(merged, inside=self._inside, file=self._file)

    def overridden(self, outer: Fields, name: str) -> Fields:
        """These fields, but for the one called `name`, which `outer` decides if it gives it."""
        value = {name: outer._values[name]} if outer.gives(name) else {}
        return Fields({**self._values, **value}, inside=self._inside, file=self._file)

    def wrong(self, name: str, problem: str) -> SpecError:
        """The error that says what is wrong with a field."""
        return SpecError(self._path(name), problem, file=self._file)

    def _path(self, name: str) -> str:
        return f"{self._inside}.{name}" if self._inside else name
