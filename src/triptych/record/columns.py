"""The columns of the run record: one row a request, one row a batch. Every producer fills these.

Times are seconds on the run's clock, which starts at 0 with the run; NaN where a thing did not happen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from struct import Struct

import numpy as np

REQUEST_COLUMNS: dict[str, tuple[str, str]] = {
    "id": ("int64", "position in the workload"),
    "status": ("string", "finished, aborted, timed_out or rejected; waiting or running if cut short"),
    "arrival": ("float64", "when the request reached the front end"),
    "prompt_tokens": ("int64", "text and image tokens"),
    "output_tokens": ("int64", "tokens asked for"),
    "generated_tokens": ("int64", "tokens delivered"),
    "images": ("int32", "number of images"),
    "image_tokens": ("int64", "prompt tokens that come from images"),
    "cached_tokens": ("int64", "prompt tokens found in the prefix cache"),
    "preemptions": ("int32", "times its KV was given up and recomputed"),
    "encode_instance": ("int32", "-1 if it had no encode phase"),
    "prefill_instance": ("int32", "-1 if it never reached prefill"),
    "decode_instance": ("int32", "-1 if it never decoded"),
    "encode_start": ("float64", "first batch with one of its images begins"),
    "encode_end": ("float64", "all its embeddings are there"),
    "prefill_ready": ("float64", "it may be prefilled where it is (embeddings have arrived)"),
    "prefill_start": ("float64", "first batch with a chunk of its prompt begins"),
    "first_token": ("float64", "the first token is out"),
    "decode_ready": ("float64", "its KV is where it will be decoded"),
    "end": ("float64", "last token out, or the time it was given up"),
    "transfer_seconds": ("float64", "time that embeddings and KV were under way"),
}

DERIVED_REQUEST_COLUMNS: dict[str, tuple[str, str]] = {
    "ttft": ("float64", "time to first token: first_token - arrival; NaN if the request failed"),
    "tpot": ("float64", "time per output token after the first: (end - first_token) / (generated - 1)"),
    "e2e": ("float64", "end - arrival, of finished requests"),
    "e2e_per_token": ("float64", "e2e / generated_tokens"),
    "encode_queue": ("float64", "encode_start - arrival"),
    "prefill_queue": ("float64", "prefill_start - prefill_ready"),
    "decode_queue": (
        "float64",
        "decode_ready - first_token - KV transfer: wait for a batch and for memory",
    ),
    "itl_p50": ("float64", "median gap between its tokens"),
    "itl_p90": ("float64", "90th percentile of the gaps between its tokens"),
    "itl_p99": ("float64", "99th percentile of the gaps between its tokens"),
    "itl_max": ("float64", "its longest gap"),
}

BATCH_COLUMNS: dict[str, tuple[str, str]] = {
    "start": ("float64", "the first iteration begins"),
    "first": ("float64", "seconds of the first iteration"),
    "growth": ("float64", "seconds by which each further iteration is longer"),
    "iterations": (
        "int32",
        "iterations in a row with the same decodes and nothing else, or a further chunk of one prompt",
    ),
    "prefill_tokens": ("int32", "prompt tokens of an iteration"),
    "prefill_pairs": ("float64", "query-key pairs of prefill attention (causal), in the first iteration"),
    "prefill_kv": (
        "int64",
        "KV tokens that the chunks' attention reads (history and own), in the first iteration",
    ),
    "sampled": ("int32", "sequences that get a token in an iteration"),
    "decodes": ("int32", "requests that decode"),
    "decode_kv": ("int64", "KV tokens read by decode attention in the first iteration"),
    "padding": ("int32", "computed slots of requests that have ended"),
    "images": ("int32", "images encoded"),
    "patches": ("int32", "their patches"),
    "patch_pairs": ("float64", "sum of squared patches of each image: full attention pairs"),
    "kv_blocks": ("int32", "KV blocks in use in the first iteration, those of the batch included"),
    "kv_blocks_last": ("int32", "KV blocks in use in the last iteration"),
    "waiting": ("int32", "requests that wait at the instance when the batch begins, and are not in it"),
    "prefilling": ("int32", "requests with a chunk in the batch"),
}
"""Without the instance: batches are logged per instance; the written table adds `instance`, `lane`."""

WORK_COLUMNS: dict[str, tuple[str, str]] = {
    "flops": ("float64", "FLOP of all iterations of the row, on all devices of the instance"),
    "bytes": (
        "float64",
        "bytes that all its devices must at least read for them: weights, and KV that attention reads",
    ),
    "cpu_seconds": ("float64", "CPU time of all threads of the process that ran it; NaN: predicted"),
}

SPAN_COLUMNS: dict[str, tuple[str, str]] = {
    "request": ("int64", "id of the request"),
    "lane": ("int64", "position in the list of lanes"),
    "join": ("int64", "first decode iteration of the lane that it takes part in"),
    "leave": ("int64", "first decode iteration of the lane that it does not take part in any more"),
    "token_time": ("float64", "when the token came out that precedes the span"),
}

TRANSFER_COLUMNS: dict[str, tuple[str, str]] = {
    "request": ("int64", "id of the request"),
    "kind": ("int8", "position in TRANSFER_KINDS"),
    "source": ("int32", "instance that sends"),
    "target": ("int32", "instance that receives"),
    "start": ("float64", "when it begins"),
    "end": ("float64", "when all has come"),
    "bytes": ("float64", "size"),
}

TRANSFER_KINDS = ("embedding", "kv")

UNITS: dict[str, str] = {
    **{
        name: "s"
        for columns in (REQUEST_COLUMNS, DERIVED_REQUEST_COLUMNS, BATCH_COLUMNS, TRANSFER_COLUMNS)
        for name, (kind, _) in columns.items()
        if kind == "float64"
    },
    **dict.fromkeys(("prompt_tokens", "output_tokens", "generated_tokens", "image_tokens"), "tokens"),
    **dict.fromkeys(("cached_tokens", "prefill_tokens", "prefill_kv", "decode_kv"), "tokens"),
    **dict.fromkeys(("prefill_pairs", "patch_pairs"), "pairs"),
    **dict.fromkeys(("token_time", "cpu_seconds"), "s"),
    "flops": "FLOP",
    "bytes": "bytes",
    "kv_blocks": "blocks",
    "kv_blocks_last": "blocks",
}
"""Column -> unit, for every column that has one; the others are counts, positions or names."""


def packed_row(columns: Mapping[str, tuple[str, str]]) -> np.dtype[np.void]:
    """The columns side by side without gaps, as a numpy record."""
    return np.dtype([(name, dtype) for name, (dtype, _) in columns.items()])


def packer(row: np.dtype[np.void]) -> Callable[..., bytes]:
    """Packs the values of one row into bytes: the cheapest way to keep many rows in Python."""
    codes = {"f8": "d", "i8": "q", "i4": "i", "i1": "b"}
    return Struct("=" + "".join(codes[row[name].str[1:]] for name in row.names or ())).pack


BATCH_ROW = packed_row(BATCH_COLUMNS)
"""A row of the batch log."""
