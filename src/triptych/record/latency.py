"""Latencies of each request, from the times that were recorded for it.

TTFT, TPOT and E2E are defined as in DistServe (Zhong et al., OSDI 2024) and as vLLM's serving benchmark
prints them; E2E per token is the "normalized latency" of Orca (Yu et al., OSDI 2022) and vLLM
(Kwon et al., SOSP 2023).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from triptych.record.columns import TRANSFER_KINDS
from triptych.record.logs import Columns, Floats, Transfers


def request_latencies(
    requests: Columns,
    transfers: Transfers | None,
    finished: npt.NDArray[np.bool_],
    failed: npt.NDArray[np.bool_],
) -> dict[str, Floats]:
    """The derived columns but for inter-token latency, shape (requests,), seconds, NaN where undefined.

    TTFT is there for every request that got a token and did not fail; TPOT and E2E for those that finished,
    TPOT for those of them with two tokens or more.

    Args:
        requests: the raw columns.
        transfers: their log; None: it was not kept.
        finished: which requests got all their tokens.
        failed: which were rejected or broken off by the server, possibly after their first token.
    """

    def time(name: str) -> Floats:
        return requests[name].astype(np.float64, copy=False)

    arrival, first_token = time("arrival"), time("first_token")
    generated = time("generated_tokens")
    end = np.where(finished, time("end"), np.nan)
    after_first = np.where(generated > 1, generated - 1, np.nan)
    e2e = end - arrival
    return {
        "ttft": np.where(failed, np.nan, first_token - arrival),
        "tpot": (end - first_token) / after_first,
        "e2e": e2e,
        "e2e_per_token": e2e / np.where(generated > 0, generated, np.nan),
        "encode_queue": time("encode_start") - arrival,
        "prefill_queue": time("prefill_start") - time("prefill_ready"),
        "decode_queue": time("decode_ready") - first_token - _kv_seconds(requests, transfers),
    }


def _kv_seconds(requests: Columns, transfers: Transfers | None) -> Floats:
    """How long each request's KV was under way before it could be decoded.

    Without a log of transfers it is all of `transfer_seconds`, unless embeddings were sent as well: NaN.
    """
    if transfers is None:
        encode, prefill = requests["encode_instance"], requests["prefill_instance"]
        return np.where((encode == -1) | (encode == prefill), requests["transfer_seconds"], np.nan)
    columns = transfers.columns
    request = columns["request"]
    # A request that is preempted sends its KV again, later: that is not part of this wait.
    counts = columns["kind"] == TRANSFER_KINDS.index("kv")
    counts &= columns["end"] <= requests["decode_ready"][request]
    seconds = (columns["end"] - columns["start"])[counts]
    total = np.bincount(request[counts], seconds, minlength=len(requests["id"]))
    return total.astype(np.float64, copy=False)
