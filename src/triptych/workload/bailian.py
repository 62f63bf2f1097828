"""Reader of the traces of Alibaba Cloud's Bailian (alibaba-edu/qwen-bailian-usagetraces; USENIX ATC 2025).

One JSON object a line: timestamp (seconds, rising), input_length, output_length, and hash_ids, one for each
16 tokens of the prompt (tokens at its end that fill no block may have one), chained as Mooncake's are.
chat_id, parent_chat_id, type and turn are not used: the ids tell what a turn shares with those before it.
"""

from __future__ import annotations

from pathlib import Path

from triptych.workload.hashed import BAILIAN, read_hashed
from triptych.workload.requests import Requests
from triptych.workload.window import Window


def read_bailian(path: Path, window: Window | None = None) -> Requests:
    """As `read_hashed`."""
    return read_hashed(path, BAILIAN, window or Window())
