"""What the JSON lines of Mooncake and of Bailian share: their fields, and ids of the prompt's blocks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from triptych.spec.base import SpecError, shown
from triptych.workload.requests import Requests
from triptych.workload.rows import Row, gather
from triptych.workload.text import text_lines
from triptych.workload.window import Window

_NAMES = {
    "arrival": "timestamp",
    "text_tokens": "input_length",
    "output_tokens": "output_length",
}


@dataclass(frozen=True, slots=True)
class Dialect:
    """In what the formats differ, whose fields have the same names."""

    format: str
    unit: str
    """Name of the timestamps' unit."""
    seconds: float
    """In one of them."""
    id_tokens: int
    """That one id covers."""
    covers_all: bool
    """Whether tokens at the end of a prompt that fill no block have an id for certain."""

    def explains(self, tokens: int, ids: int) -> bool:
        """Whether a prompt of so many tokens has so many ids."""
        blocks, rest = divmod(tokens, self.id_tokens)
        return ids == blocks + (rest > 0) or (ids == blocks and not self.covers_all)


MOONCAKE = Dialect("mooncake", "milliseconds", 1e-3, 512, covers_all=True)
BAILIAN = Dialect("bailian", "seconds", 1.0, 16, covers_all=False)


def read_hashed(path: Path, dialect: Dialect, window: Window) -> Requests:
    """The requests of a trace, at times that count from the first of them.

    Args:
        path: of a file with one JSON object a line.
        dialect: which of the formats it is.
        window: what is wanted of it.

    Raises:
        SpecError: the file cannot be read, the line and field that are wrong, or the ids are not as many as
            the lengths ask for: then with the format that explains them.
    """
    rows = _rows(path, dialect)
    return gather(rows, window, _NAMES, path, id_tokens=dialect.id_tokens)


def _rows(path: Path, dialect: Dialect) -> Iterator[Row]:
    for number, line in enumerate(text_lines(path, "JSON lines"), start=1):
        yield _parse(line, number, path, dialect)


def _parse(line: str, number: int, path: Path, dialect: Dialect) -> Row:
    def wrong(field: str, problem: str, fix: str = "correct or remove the line") -> SpecError:
        where = f"line {number}, {field}" if field else f"line {number}"
        return SpecError(where, f"{problem}; {fix}", file=path)

    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise wrong("", f"not JSON ({error})") from None
    except ValueError:  # of Python's int
        raise wrong("", "a number has too many digits") from None
    except RecursionError:
        raise wrong("", "not JSON (nested too deeply)") from None
    if not isinstance(record, dict):
        raise wrong("", "not a JSON object")
    for field in ("timestamp", "input_length", "output_length", "hash_ids"):
        if field not in record:
            raise wrong(field, "missing")
    time, ids = record["timestamp"], record["hash_ids"]
    if type(time) not in (int, float) or not abs(time) < 2**63:
        raise wrong("timestamp", f"must be a number of {dialect.unit}, not {shown(time)}")
    for field in ("input_length", "output_length"):
        if not _is_whole(record[field]):
            raise wrong(field, f"must be a whole number of tokens, not {shown(record[field])}")
    if not isinstance(ids, list):
        raise wrong("hash_ids", f"must be a list, not {shown(ids)}")
    for prefix in ids:
        if not _is_whole(prefix):
            raise wrong("hash_ids", f"must hold whole numbers, not {shown(prefix)}")
    tokens = record["input_length"]
    if tokens > 0 and not dialect.explains(tokens, len(ids)):
        raise wrong("hash_ids", *_miscounted(tokens, len(ids), dialect))
    return Row(time * dialect.seconds, tokens, record["output_length"], ids)


def _miscounted(tokens: int, ids: int, dialect: Dialect) -> tuple[str, str]:
    """What is wrong with so many ids, and how to fix it."""
    problem = f"{ids} ids for {tokens} tokens, where {dialect.format} has one for each {dialect.id_tokens}"
    for other in (MOONCAKE, BAILIAN):
        if other.explains(tokens, ids):
            what = f"one for each {other.id_tokens}, and timestamps in {other.unit}"
            return problem, f"set format: {other.format}, which has {what}"
    return problem, "correct or remove the line"


def _is_whole(value: object) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63
