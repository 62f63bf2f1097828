"""Reader of the traces of Mooncake (FAST 2025, Apache-2.0).

One JSON object a line: timestamp (milliseconds, rising), input_length, output_length, and hash_ids, one for
each 512 tokens of the prompt (the last may cover fewer). An id is chained: it stands for the prompt from its
beginning, so that equal ids are equal prefixes.
"""

from __future__ import annotations

from pathlib import Path

from triptych.workload.hashed import MOONCAKE, read_hashed
from triptych.workload.requests import Requests
from triptych.workload.window import Window


def read_mooncake(path: Path, window: Window | None = None) -> Requests:
    """As `read_hashed`."""
    return read_hashed(path, MOONCAKE, window or Window())
