"""Latencies of single requests, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from tests.record import build

from triptych.record.run import Run


def of_first(run: Run, name: str) -> float:
    return float(run.column(name)[0])


def test_a_request_that_runs_through_all_phases() -> None:
    run = build.run(
        [
            {
                "arrival": 1.0,
                "images": 1,
                "encode_start": 1.5,
                "encode_end": 2.0,
                "prefill_ready": 2.25,
                "prefill_start": 3.0,
                "first_token": 4.0,
                "decode_ready": 6.0,
                "end": 12.0,
                "generated_tokens": 5,
                "transfer_seconds": 0.75,
                "encode_instance": 0,
                "prefill_instance": 1,
                "decode_instance": 2,
            }
        ],
        transfers=build.transfers((0, "embedding", 0, 1, 2.0, 2.25, 1.0), (0, "kv", 1, 2, 5.5, 6.0, 1.0)),
    )
    assert of_first(run, "ttft") == 3.0
    assert of_first(run, "tpot") == 2.0
    assert of_first(run, "e2e") == 11.0
    assert of_first(run, "e2e_per_token") == 2.2
    assert of_first(run, "encode_queue") == 0.5
    assert of_first(run, "prefill_queue") == 0.75
    assert of_first(run, "decode_queue") == 1.5  # 2 s from first token to KV, less half a second on the way


def test_kv_that_is_sent_again_after_a_preemption_is_no_part_of_the_first_wait() -> None:
    run = build.run(
        [{"arrival": 0.0, "first_token": 1.0, "decode_ready": 2.0, "end": 9.0, "transfer_seconds": 4.0}],
        transfers=build.transfers((0, "kv", 0, 1, 1.5, 2.0, 1.0), (0, "kv", 0, 1, 4.5, 8.0, 1.0)),
    )
    assert of_first(run, "decode_queue") == 0.5


@pytest.mark.parametrize(("encode_instance", "expected"), [(-1, 0.5), (1, 0.5), (0, float("nan"))])
def test_without_a_log_transfer_time_is_that_of_kv_unless_embeddings_moved_too(
    encode_instance: int, expected: float
) -> None:
    times = {"arrival": 0.0, "first_token": 1.0, "decode_ready": 2.0, "transfer_seconds": 0.5}
    run = build.run([{**times, "encode_instance": encode_instance, "prefill_instance": 1}])
    assert of_first(run, "decode_queue") == pytest.approx(expected, nan_ok=True)


def test_one_token_has_no_time_per_further_token() -> None:
    run = build.run([{"arrival": 0.0, "first_token": 1.0, "end": 1.0, "generated_tokens": 1}])
    assert np.isnan(of_first(run, "tpot"))
    assert of_first(run, "e2e_per_token") == 1.0


@pytest.mark.parametrize("status", ["aborted", "timed_out", "running"])
def test_a_request_that_did_not_finish_has_a_ttft_and_no_e2e(status: str) -> None:
    row = {"arrival": 0.0, "first_token": 1.0, "end": 5.0, "generated_tokens": 3, "status": status}
    run = build.run([row])
    assert of_first(run, "ttft") == 1.0
    assert np.isnan([of_first(run, name) for name in ("tpot", "e2e", "e2e_per_token")]).all()


def test_columns_that_a_producer_measured_itself_are_not_computed() -> None:
    columns = {**build.requests({"arrival": 0.0, "first_token": 1.0}), "ttft": np.array([9.0])}
    run = Run(columns, [], build.spans(), [], 1.0, producer="bench")
    assert of_first(run, "ttft") == 9.0


def test_a_producer_that_breaks_the_contract_is_told() -> None:
    columns = build.requests({"arrival": 0.0})
    del columns["end"]
    with pytest.raises(ValueError, match="no column end"):
        Run(columns, [], build.spans(), [], 1.0)
    columns = {**build.requests({"arrival": 0.0}), "end": np.zeros(2)}
    with pytest.raises(ValueError, match="differ in length"):
        Run(columns, [], build.spans(), [], 1.0)
    columns = {**build.requests({"arrival": 0.0}), "status": np.array([99], np.int8)}
    with pytest.raises(ValueError, match="status"):
        Run(columns, [], build.spans(), [], 1.0)
