"""Reader of the traces of Mooncake (FAST 2025, Apache-2.0).

One JSON object a line: timestamp (milliseconds, rising), input_length, output_length, and hash_ids, one for
each 512 tokens of the prompt (the last may cover fewer). An id is chained: it stands for the prompt from its
beginning, so that equal ids are equal prefixes.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from triptych.spec.base import SpecError, shown
from triptych.workload.requests import Requests, RowError

ID_TOKENS = 512
_NAMES = {
    "arrival": "timestamp",
    "text_tokens": "input_length",
    "output_tokens": "output_length",
}


def read_mooncake(path: Path) -> Requests:
    """Its requests, at times that count from the first of them.

    Raises:
        SpecError: the file cannot be read, or the line and field that are wrong.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError("", f"cannot be read as JSON lines: {error}", file=path) from None
    times: list[float] = []
    prompts: list[int] = []
    outputs: list[int] = []
    ids: list[int] = []
    ends = [0]
    for number, line in enumerate(lines, start=1):
        time, prompt, output, prefix = _parse(line, number, path)
        times.append(time)
        prompts.append(prompt)
        outputs.append(output)
        ids.extend(prefix)
        ends.append(len(ids))
    if not times:
        raise SpecError("", "no request in the file; use another trace", file=path)
    milliseconds = np.array(times, dtype=np.float64)
    try:
        plain = Requests.plain(
            (milliseconds - milliseconds[0]) / 1e3,
            np.array(prompts, dtype=np.int64),
            np.array(outputs, dtype=np.int64),
        )
    except RowError as error:
        field = f"line {error.row + 1}, {_NAMES[error.column]}"
        raise SpecError(field, error.problem, file=path) from None
    return replace(
        plain,
        prefix_offsets=np.array(ends, dtype=np.int64),
        prefix_ids=np.array(ids, dtype=np.int64),
        prefix_block_tokens=ID_TOKENS,
    )


def _parse(line: str, number: int, path: Path) -> tuple[float, int, int, list[int]]:
    """Milliseconds, prompt and output tokens, and prefix ids of one line."""

    def wrong(field: str, problem: str) -> SpecError:
        where = f"line {number}, {field}" if field else f"line {number}"
        return SpecError(where, f"{problem}; correct or remove the line", file=path)

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
        raise wrong("timestamp", f"must be a number of milliseconds, not {shown(time)}")
    for field in ("input_length", "output_length"):
        if not _is_whole(record[field]):
            raise wrong(field, f"must be a whole number of tokens, not {shown(record[field])}")
    if not isinstance(ids, list):
        raise wrong("hash_ids", f"must be a list, not {shown(ids)}")
    for prefix in ids:
        if not _is_whole(prefix):
            raise wrong("hash_ids", f"must hold whole numbers, not {shown(prefix)}")
    return time, record["input_length"], record["output_length"], ids


def _is_whole(value: object) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63
