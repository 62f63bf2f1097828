"""Every metric of a summary, against numbers worked out by hand."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from tests.record import build

from triptych.record.metrics import summarise
from triptych.record.power import active_seconds, energy
from triptych.record.statistics import counted_distribution, distribution
from triptych.record.summary import Summary

SUMMARY = summarise(build.split_run())
PREFILL, DECODE = SUMMARY.pools


def test_latencies_of_the_split_run() -> None:
    mean = {name: values.mean for name, values in SUMMARY.latency.items()}
    assert mean == pytest.approx(
        {
            "ttft": 2.0,
            "tpot": (4 / 3 + 3 / 2) / 2,
            "itl": (2 + 1 + 1 + 2 + 1) / 5,
            "e2e": 5.5,
            "e2e_per_token": (6 / 4 + 5 / 3) / 2,
            "encode_queue": None,
            "prefill_queue": 1.0,
            "decode_queue": 0.0,
            "transfer_seconds": 1.0,
        }
    )


def test_percentiles_are_interpolated_between_order_statistics() -> None:
    values = distribution(np.array([4.0, np.nan, 1.0, 2.0, 3.0, 5.0]))
    assert (values.count, values.mean, values.p50, values.p90, values.max) == (5, 3.0, 3.0, 4.6, 5.0)
    assert values.at("p99.9") == values.p99_9 == pytest.approx(4.996)
    assert distribution(np.array([np.nan])).p99 is None


def test_counted_values_are_as_if_written_out() -> None:
    counted = counted_distribution(np.array([3.0, 1.0, 2.0]), np.array([1, 4, 2]))
    written_out = distribution(np.array([1.0, 1, 1, 1, 2, 2, 3]))
    assert asdict(counted) == pytest.approx(asdict(written_out))


def test_throughput() -> None:
    rates = SUMMARY.throughput
    assert rates.arrival_rate == 1.0  # the second request comes a second after the first
    assert rates.qps == 0.2
    assert rates.output_tokens == 0.7
    assert rates.total_tokens == 20.7
    assert rates.goodput == 0.1  # the second request's TPOT is 1.5 s
    assert rates.goodput_share == 0.5


def test_batches() -> None:
    assert (PREFILL.usage.batches, PREFILL.usage.iterations) == (2, 2)
    assert (PREFILL.usage.mean_batch, PREFILL.usage.tokens_per_iteration) == (1, 100)
    assert (DECODE.usage.batches, DECODE.usage.iterations) == (2, 3)
    assert DECODE.usage.mean_batch == DECODE.usage.tokens_per_iteration == pytest.approx(5 / 3)


def test_busy_and_idle() -> None:
    assert (PREFILL.usage.busy_seconds, PREFILL.usage.idle_seconds) == (2.0, 8.0)
    assert DECODE.usage.busy_share == pytest.approx(0.3)


def test_memory() -> None:
    assert DECODE.usage.kv_mean_share == pytest.approx((50 * 1 + 80 * 2) / 3 / 100)
    assert DECODE.usage.kv_peak_share == 0.8
    assert DECODE.usage.memory_peak_share == (400 + 50 + 80 * 5) / 1000


def test_utilisation_is_that_of_busy_time() -> None:
    assert PREFILL.usage.mfu == 1000 / (1000 * 2)
    assert PREFILL.usage.mbu == 40 / (100 * 2)
    assert DECODE.usage.mbu == pytest.approx(160 / (100 * 3))


def test_energy_follows_whichever_of_compute_and_memory_is_used_more() -> None:
    active = active_seconds(
        np.array([500.0, 10.0]), np.array([10.0, 80.0]), np.array([1.0, 1.0]), peak_flops=1000, bandwidth=100
    )
    assert active == 0.5 + 0.8
    assert energy(10, 110, horizon=10, active=active) == 10 * 10 + 100 * 1.3
    assert PREFILL.usage.energy_joules == 10 * 10 + 100 * (0.5 + 0.5)
    assert DECODE.usage.energy_joules == 10 * 10 + 100 * (0.8 + 0.8)


def test_a_batch_is_never_more_than_fully_used() -> None:
    too_much = active_seconds(
        np.array([5000.0]), np.array([0.0]), np.array([1.0]), peak_flops=1000, bandwidth=100
    )
    assert too_much == 1.0


def test_cost() -> None:
    cost = SUMMARY.cost
    assert cost is not None
    assert cost.devices == 3
    assert cost.dollars_per_hour == pytest.approx(10.8)
    assert cost.dollars == pytest.approx(10.8 * 10 / 3600)
    assert cost.dollars_per_million_output_tokens == pytest.approx(0.03 / 7 * 1e6)
    assert cost.joules_per_output_token == pytest.approx(460 / 7)
    assert cost.qps_per_dollar_hour == pytest.approx(0.2 / 10.8)


def test_a_pool_is_all_its_instances() -> None:
    second = replace(build.INSTANCE, id=1)
    batch = {"first": 2.0, "decodes": 4, "kv_blocks": 20, "flops": 400, "bytes": 20}
    lanes = [
        build.lane(batch),
        build.lane({**batch, "decodes": 1, "first": 4.0, "kv_blocks": 50}, instance=1),
    ]
    summary = summarise(build.run([], lanes, instances=[build.INSTANCE, second]))
    (pool,) = summary.pools
    assert (pool.instances, pool.usage.devices) == (2, 2)
    assert pool.usage.busy_share == (2 + 4) / 20
    assert pool.usage.mean_batch == 2.5
    assert pool.usage.kv_mean_share == pytest.approx((20 * 2 + 50 * 4) / (100 * 6))
    assert pool.usage.kv_peak_share == 0.5
    assert pool.usage.mfu == pytest.approx(800 / (1000 * 6))
    assert [each.usage.busy_seconds for each in summary.instances] == [2.0, 4.0]


def test_an_instance_is_busy_for_the_mean_of_its_lanes() -> None:
    info = replace(build.INSTANCE, lanes=2)
    batch = {"first": 4.0, "decodes": 1, "flops": 1000}
    lanes = [build.lane(batch), build.lane({**batch, "first": 2.0}, number=1)]
    (instance,) = summarise(build.run([], lanes, instances=[info])).instances
    assert instance.usage.busy_seconds == 3.0
    assert instance.usage.mfu == pytest.approx(2000 / 3000)


def test_images_are_the_members_of_an_encode_batch() -> None:
    info = replace(build.INSTANCE, phases=("encode",), kv_blocks=0)
    lanes = [build.lane({"first": 1.0, "images": 3, "patches": 900})]
    (pool,) = summarise(build.run([], lanes, instances=[info])).pools
    assert (pool.usage.mean_batch, pool.usage.tokens_per_iteration) == (3, 0)
    assert pool.usage.kv_mean_share is None
    assert pool.usage.kv_peak_share is None


def test_what_became_of_the_requests() -> None:
    done = {"arrival": 0.0, "first_token": 1.0, "prompt_tokens": 40, "cached_tokens": 10}
    rows: list[dict[str, Any]] = [
        {**done, "preemptions": 2, "generated_tokens": 1, "end": 1.0},
        {**done, "status": "aborted", "generated_tokens": 3},
        *({"arrival": 1.0, "status": status} for status in ("timed_out", "rejected", "waiting", "running")),
        {"status": "waiting"},  # would have come later
    ]
    counts = summarise(build.run(rows)).counts
    assert counts.requests == 6
    assert (counts.finished, counts.aborted, counts.timed_out, counts.rejected) == (1, 1, 1, 1)
    assert counts.unfinished == 2
    assert counts.preemptions == 2
    assert (counts.prompt_tokens, counts.output_tokens) == (80, 4)
    assert counts.cached_share == 20 / 80


def test_nothing_at_all_is_summarised_without_a_nan() -> None:
    summary = summarise(build.run([], [], horizon=0.0, slo=[("ttft", "p99", 1.0)]))
    text = json.dumps(summary.to_dict(), allow_nan=False)
    assert json.loads(text)["latency"]["ttft"]["p99_9"] is None
    assert summary.slo[0].verdict == "no request"


def test_a_run_without_instances_has_no_cost() -> None:
    assert summarise(build.run([{"arrival": 0.0, "end": 1.0}], instances=[], producer="bench")).cost is None


def test_a_summary_is_read_back_from_its_json() -> None:
    data = json.loads(json.dumps(SUMMARY.to_dict(), allow_nan=False))
    assert Summary.from_dict(data) == SUMMARY


def test_memory_is_that_of_one_instance_and_requests_fit_by_their_mean_length() -> None:
    """100 blocks; two requests of 30 + 10 tokens in the mean, of which 10 come from images."""
    info = replace(build.INSTANCE, kv_block_bytes=1000.0, weights_bytes=5e9)
    rows = [
        {"arrival": 0.0, "first_token": 1.0, "prompt_tokens": 20, "output_tokens": 10},
        {"arrival": 0.0, "first_token": 1.0, "prompt_tokens": 40, "output_tokens": 10, "image_tokens": 20},
    ]
    summary = summarise(build.run(rows, instances=[info, replace(info, id=1)]))
    (pool,) = summary.pools
    tokens = 100 * info.block_size
    assert (pool.weights_bytes, pool.kv_bytes, pool.kv_tokens) == (5e9, 100 * 1000, tokens)
    mean = (summary.counts.prompt_tokens + summary.counts.output_tokens) / 2
    assert pool.requests_that_fit == tokens / mean
    assert (summary.counts.prompt_tokens, summary.counts.image_tokens) == (60, 20)


def test_requests_that_fit_are_known_though_none_finished() -> None:
    rows = [{"arrival": 0.0, "status": "timed_out", "prompt_tokens": 30, "output_tokens": 10}] * 2
    refused = {"arrival": 0.0, "status": "rejected", "prompt_tokens": 9000, "output_tokens": 10}
    (pool,) = summarise(build.run([*rows, refused])).pools
    assert pool.requests_that_fit == pool.kv_tokens / 40
