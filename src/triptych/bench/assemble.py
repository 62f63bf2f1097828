"""From answers to the run record: the columns of `simulate`, as far as a client can see them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from triptych.bench.answer import Answer
from triptych.bench.bodies import Form
from triptych.policy import Status
from triptych.record import STATUSES, Spans
from triptych.record.columns import REQUEST_COLUMNS, SPAN_COLUMNS
from triptych.record.logs import Floats
from triptych.record.statistics import distribution
from triptych.workload import Requests

CLIENT_COLUMNS: dict[str, tuple[str, str]] = {
    "id": ("int64", "position in the workload"),
    "due": ("float64", "when it was to be sent, or when so few were in flight that it could be, s"),
    "lateness": ("float64", "when it was sent - due, s"),
    "http_status": ("int32", "of the answer; 0: there was none"),
    "text_tokens": ("int64", "tokens that the workload has for the prompt without its images"),
    "error": ("string", "why the request failed, in the server's words"),
}
"""What only a client knows; `client.parquet` in the run folder."""
_MOST_ERRORS = 10
"""Different ones that are told apart."""


def request_columns(
    requests: Requests, answers: Sequence[Answer], begin: float, form: Form
) -> dict[str, Any]:
    """REQUEST_COLUMNS and CLIENT_COLUMNS; phases that a client cannot see are NaN.

    Args:
        requests: the workload.
        answers: one a request.
        begin: reading of the clock that is time 0.
        form: how the server was asked.
    """
    size = len(requests)
    columns: dict[str, Any] = {
        name: np.full(size, np.nan if kind == "float64" else -1 if name.endswith("_instance") else 0)
        for name, (kind, _) in REQUEST_COLUMNS.items()
    }
    made = np.array([form.made(tokens) for tokens in requests.text_tokens.tolist()], np.int64)
    counted = _column(answers, "prompt_tokens", made)
    images = np.diff(requests.image_offsets)
    codes = {status: STATUSES.index(status.value) for status in Status}
    sent = np.array([answer.sent for answer in answers]) - begin
    end = np.array([answer.end if answer.status.ended else np.nan for answer in answers]) - begin
    due = _due(requests, end)
    return columns | {
        "id": np.arange(size),
        "status": np.array([codes[answer.status] for answer in answers], np.int8),
        "arrival": sent,
        "prompt_tokens": counted,
        "output_tokens": requests.output_tokens,
        "generated_tokens": np.array([answer.generated_tokens for answer in answers], np.int64),
        "images": images.astype(np.int32),
        "image_tokens": np.where(images > 0, np.maximum(counted - made, 0), 0),
        "cached_tokens": np.array([answer.cached_tokens for answer in answers], np.int64),
        "preemptions": np.zeros(size, np.int32),
        **{name: np.full(size, -1, np.int32) for name in REQUEST_COLUMNS if name.endswith("_instance")},
        "first_token": np.array([answer.first_token for answer in answers]) - begin,
        "end": end,
        "due": due,
        "lateness": sent - due,
        "http_status": np.array([answer.http_status for answer in answers], np.int32),
        "text_tokens": requests.text_tokens,
        "error": np.array([answer.error for answer in answers], object),
    }


def _due(requests: Requests, end: Floats) -> Floats:
    """When each request was to be sent: its time, or when enough of those before it had ended.

    Args:
        requests: the workload.
        end: of each request, seconds, NaN if it did not end.
    """
    if requests.concurrency is None:
        return requests.arrival
    due = requests.arrival.copy()
    later = due[requests.concurrency :]
    later[:] = np.fmax(later, np.sort(end)[: len(later)])
    return due


def _column(answers: Sequence[Answer], name: str, otherwise: Any) -> Any:
    given = [getattr(answer, name) for answer in answers]
    known = np.array([value is not None for value in given], bool)
    return np.where(known, np.array([value or 0 for value in given], np.int64), otherwise)


def token_spans(answers: Sequence[Answer], begin: float) -> Spans:
    """When tokens came: each event with text after the first is a stay in no decode set, at its time."""
    counts = np.array([len(answer.later_tokens) for answer in answers], np.int64)
    times = np.concatenate([np.empty(0), *(np.array(answer.later_tokens) for answer in answers)])
    columns = {name: np.zeros(len(times), kind) for name, (kind, _) in SPAN_COLUMNS.items()}
    columns["request"] = np.repeat(np.arange(len(answers)), counts)
    columns["token_time"] = times - begin
    return Spans(columns)


def observations(columns: dict[str, Any], answers: Sequence[Answer]) -> dict[str, Any]:
    """What the summary says of the client and of what it was promised, as plain data."""
    finished = columns["status"] == STATUSES.index(Status.FINISHED.value)
    counted = np.array([answer.prompt_tokens is not None for answer in answers], bool)
    compared = finished & counted & (columns["images"] == 0)
    asked = columns["output_tokens"][finished] - columns["generated_tokens"][finished]
    differences = (columns["prompt_tokens"] - columns["text_tokens"])[compared]
    off = differences[differences != 0]
    errors = Counter(
        f"status {answer.http_status}: {answer.error}" if answer.http_status else answer.error
        for answer in answers
        if answer.status is Status.REJECTED
    )
    unknown = Counter(name for answer in answers for name in answer.unknown)
    lateness = distribution(columns["lateness"])
    return {
        "lateness": {"mean": lateness.mean, "p50": lateness.p50, "p99": lateness.p99, "max": lateness.max},
        "prompts_compared": len(differences),
        "prompts_mismatched": len(off),
        "prompt_tokens_off_by": float(off.mean()) if len(off) else 0.0,
        "outputs_mismatched": int((asked != 0).sum()),
        "unknown": dict(unknown),
        "errors": dict(errors.most_common(_MOST_ERRORS)),
    }
