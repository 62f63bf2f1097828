"""`triptych.simulate`: files, objects and overrides in; a run record out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import triptych
from triptych import Deployment, Run, SpecError, WorkloadSpec, catalog
from triptych.plan import plan_pools
from triptych.record.run import STATUSES
from triptych.spec.yaml import dump_yaml, parse_yaml

TRACES = Path(__file__).parents[1].parent / "shared/data/traces"

DEPLOYMENT: dict[str, Any] = {
    "model": "opt-125m",
    "pools": {
        "all": {
            "phases": ["prefill", "decode"],
            "device": "A10",
            "scheduler": {"policy": "sarathi", "max_batch": 16, "max_tokens": 128},
        }
    },
}
WORKLOAD: dict[str, Any] = {
    "requests": 40,
    "seed": 1,
    "arrivals": {"kind": "poisson", "rate": 50},
    "prompt": {"kind": "uniform", "low": 1, "high": 300},
    "output": {"kind": "uniform", "low": 1, "high": 60},
}
TRACED: dict[str, Any] = {name: {"kind": "trace"} for name in ("arrivals", "prompt", "output")}
IMAGES = {"sizes": [{"width": 224, "height": 196}]}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A deployment and a workload, written down."""
    paths = tmp_path / "deployment.yaml", tmp_path / "workload.yaml"
    for path, data in zip(paths, (DEPLOYMENT, WORKLOAD), strict=True):
        path.write_text(dump_yaml(data), encoding="utf-8")
    return paths


@pytest.fixture
def simulate() -> Callable[..., Run]:
    """Simulates the workload above with some fields declared otherwise."""

    def simulated(deployment: dict[str, Any] = DEPLOYMENT, **changes: Any) -> Run:
        workload = WorkloadSpec.parse({**WORKLOAD, **changes})
        return triptych.simulate(Deployment.parse(deployment), workload)

    return simulated


def assert_identical(one: Run, other: Run) -> None:
    """Equal in every bit that does not tell how long the simulator took."""
    for name, column in one.requests.items():
        np.testing.assert_array_equal(column, other.requests[name], err_msg=name)
    for columns, others in (
        *((lane.columns, twin.columns) for lane, twin in zip(one.lanes, other.lanes, strict=True)),
        (one.spans.columns, other.spans.columns),
    ):
        for name, column in columns.items():
            np.testing.assert_array_equal(column, others[name], err_msg=name)
    assert one.horizon == other.horizon
    assert list(one.instances) == list(other.instances)
    assert (one.deployment_yaml, one.workload_yaml) == (other.deployment_yaml, other.workload_yaml)


def statuses(run: Run) -> list[str]:
    return [STATUSES[status] for status in run.requests["status"]]


def under_way(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Requests in the system after each time at which that changes; and these times."""
    arrival, end = run.requests["arrival"], run.requests["end"]
    times = np.unique(np.concatenate([arrival, end]))
    came = np.searchsorted(np.sort(arrival), times, side="right")
    left = np.searchsorted(np.sort(end), times, side="right")
    return came - left, times


# What it takes --------------------------------------------------------------------------------------


def test_files_and_objects_are_the_same(files: tuple[Path, Path], simulate: Callable[..., Run]) -> None:
    run = triptych.simulate(*files)
    assert statuses(run) == ["finished"] * 40
    assert_identical(run, simulate())
    assert_identical(run, triptych.simulate(str(files[0]), WorkloadSpec.load(files[1])))


def test_overrides_change_either_file(files: tuple[Path, Path]) -> None:
    overrides = ["pools.all.instances=3", "workload.requests=7", "workload.arrivals.rate=5"]
    run = triptych.simulate(*files, overrides=overrides)
    assert len(run) == 7
    assert len(run.instances) == 3
    declared = Deployment.parse(parse_yaml(run.deployment_yaml))
    assert declared.pools["all"].instances == 3
    assert parse_yaml(run.workload_yaml)["arrivals"]["rate"] == 5


def test_a_wrong_override_names_its_field_and_file(files: tuple[Path, Path]) -> None:
    with pytest.raises(SpecError, match=r"deployment\.yaml: pools\.all\.instances"):
        triptych.simulate(*files, overrides=["pools.all.instances=0"])
    with pytest.raises(SpecError, match=r"workload\.yaml: requests"):
        triptych.simulate(*files, overrides=["workload.requests=-1"])


def test_the_same_seed_gives_the_same_bits(simulate: Callable[..., Run]) -> None:
    assert_identical(simulate(), simulate())
    assert not np.array_equal(simulate().requests["end"], simulate(seed=2).requests["end"])


def test_the_record_says_what_was_run(simulate: Callable[..., Run]) -> None:
    run = simulate(slo={"ttft": {"p99": "2 s"}})
    assert run.producer == "simulate"
    assert not run.interrupted
    assert run.meta["seed"] == 1
    assert run.meta["version"] == triptych.__version__
    assert list(run.slo) == [("ttft", "p99", 2.0)]
    assert run.horizon == run.requests["end"].max()
    assert triptych.summarise(run).latency["ttft"].p99


# Stopping --------------------------------------------------------------------------------------------


def test_a_run_that_is_stopped_keeps_what_is_finished() -> None:
    deployment = Deployment.parse(DEPLOYMENT)
    workload = WorkloadSpec.parse({**WORKLOAD, "requests": 6000})
    told: list[tuple[int, int, float]] = []

    def stop(done: int, total: int, now: float) -> bool:
        told.append((done, total, now))
        return len(told) < 2

    whole = triptych.simulate(deployment, workload)
    run = triptych.simulate(deployment, workload, progress=stop)
    assert len(told) == 2, "once more would be one too many"
    done, total, now = told[-1]
    assert run.interrupted
    assert run.horizon == now
    assert total == 6000

    finished = run.finished
    assert 0 < finished.sum() == done < 6000
    for name in ("first_token", "end", "generated_tokens"):
        np.testing.assert_array_equal(run.requests[name][finished], whole.requests[name][finished])
    assert set(statuses(run)) <= {"finished", "running", "waiting"}
    assert np.isnan(run.requests["end"][~finished]).all()
    assert np.isnan(run.requests["arrival"]).any(), "some had not come yet"
    assert triptych.summarise(run).latency["ttft"].p99


def test_progress_is_told_and_changes_nothing(simulate: Callable[..., Run]) -> None:
    told: list[tuple[int, int, float]] = []

    def go_on(done: int, total: int, now: float) -> bool:
        told.append((done, total, now))
        return True

    workload = WorkloadSpec.parse({**WORKLOAD, "requests": 4000})
    run = triptych.simulate(Deployment.parse(DEPLOYMENT), workload, progress=go_on)
    assert told == sorted(told)
    assert len(told) > 1
    assert_identical(run, simulate(requests=4000))


# Traffic ---------------------------------------------------------------------------------------------


def test_a_closed_loop_keeps_so_many_under_way(simulate: Callable[..., Run]) -> None:
    run = simulate(arrivals={"kind": "closed", "concurrency": 5})
    count, times = under_way(run)
    last_arrival = run.requests["arrival"].max()
    assert (count[times <= last_arrival] == 5).all()
    assert count[-1] == 0
    came = np.sort(run.requests["arrival"])
    np.testing.assert_array_equal(came[:5], 0.0)
    np.testing.assert_array_equal(came[5:], np.sort(run.requests["end"])[:35])


def test_time_outs_end_requests_and_free_their_place(simulate: Callable[..., Run]) -> None:
    run = simulate(arrivals={"kind": "at-once"}, output={"kind": "fixed", "tokens": 500}, timeout=0.5)
    assert set(statuses(run)) == {"timed_out"}
    waited = run.requests["end"] - run.requests["arrival"]
    longest = max(lane.columns["first"].max() for lane in run.lanes)
    assert (waited >= 0.5).all()
    assert (waited <= 0.5 + longest).all(), "no later than the iteration that was running"
    assert (run.requests["generated_tokens"] < 500).all()
    assert run.requests["generated_tokens"].max() > 0


def test_who_goes_away_is_aborted(simulate: Callable[..., Run]) -> None:
    run = simulate(output={"kind": "fixed", "tokens": 400}, aborts={"share": 0.5, "after": 0.2})
    assert set(statuses(run)) == {"finished", "aborted"}


def test_what_never_fits_is_rejected_and_the_rest_served(simulate: Callable[..., Run]) -> None:
    small = {**DEPLOYMENT, "pools": {"all": {**DEPLOYMENT["pools"]["all"], "kv_blocks": 10}}}
    run = simulate(small)
    longest = run.requests["prompt_tokens"] + run.requests["output_tokens"] - 1
    assert [status == "rejected" for status in statuses(run)] == (longest > 160).tolist()
    assert run.finished.any()


def test_what_the_model_has_no_positions_for_is_rejected(simulate: Callable[..., Run]) -> None:
    """opt-125m has 2,048 positions; the last token of an output is never fed back, so it needs none."""
    lengths = {"kind": "fixed", "tokens": 2000}
    for output, status in ((49, "finished"), (50, "rejected")):
        run = simulate(prompt=lengths, output={"kind": "fixed", "tokens": output}, requests=2)
        assert statuses(run) == [status] * 2


def test_an_azure_trace_is_replayed(tmp_path: Path, simulate: Callable[..., Run]) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n"
        "2023-11-16 18:15:50.9951690,396,109\n"
        "2023-11-16 18:15:51.2225670,879,1\n",
        encoding="utf-8",
    )
    run = simulate(requests=None, trace={"format": "azure", "path": str(path)}, **TRACED)
    np.testing.assert_allclose(run.requests["arrival"], [0.0, 4.314579, 4.541977], atol=1e-9)
    assert run.requests["prompt_tokens"].tolist() == [374, 396, 879]
    assert run.requests["generated_tokens"].tolist() == [44, 109, 1]
    computed = [lane.columns["prefill_tokens"] * lane.columns["iterations"] for lane in run.lanes]
    assert sum(tokens.sum() for tokens in computed) == 374 + 396 + 879


def test_prefixes_of_a_mooncake_trace_are_reused(tmp_path: Path, simulate: Callable[..., Run]) -> None:
    """Ids stand for 512 tokens each: the second request shares two of them, and the third nothing.

    The fourth finds all full blocks of the first, but for the token that must be computed to sample from.
    """
    rows = [(0, 1500, [1, 2, 3]), (10_000, 1400, [1, 2, 4]), (20_000, 600, [5, 6]), (30_000, 1500, [1, 2, 3])]
    names = ("timestamp", "input_length", "output_length", "hash_ids")
    path = tmp_path / "trace.jsonl"
    path.write_text(
        "".join(
            json.dumps(dict(zip(names, (time, prompt, 5, ids), strict=True))) + "\n"
            for time, prompt, ids in rows
        ),
        encoding="utf-8",
    )
    changes = {"requests": None, "trace": {"format": "mooncake", "path": str(path)}, **TRACED}
    cached = {**DEPLOYMENT, "pools": {"all": {**DEPLOYMENT["pools"]["all"], "prefix_cache": True}}}
    run = simulate(cached, **changes)
    full_blocks = (1500 - 1) // 16 * 16
    assert run.requests["cached_tokens"].tolist() == [0, 1024, 0, full_blocks]
    without = simulate(**changes)
    assert without.requests["cached_tokens"].tolist() == [0, 0, 0, 0]
    assert run.column("ttft")[3] < without.column("ttft")[3]


def test_a_prompt_shorter_than_its_system_prompt_is_the_beginning_of_it(
    simulate: Callable[..., Run],
) -> None:
    """No prompt grows; and the later of two shares all full blocks but for the token to sample from."""
    cached = {**DEPLOYMENT, "pools": {"all": {**DEPLOYMENT["pools"]["all"], "prefix_cache": True}}}
    run = simulate(
        cached,
        requests=2,
        arrivals={"kind": "constant", "rate": 0.1},
        prompt={"kind": "fixed", "tokens": 100},
        prefixes={"groups": 1, "tokens": 512},
    )
    assert run.requests["prompt_tokens"].tolist() == [100, 100]
    assert run.requests["cached_tokens"].tolist() == [0, 96]


def test_a_published_trace_is_replayed(simulate: Callable[..., Run]) -> None:
    path = TRACES / "azure2023_conv.csv"
    if not path.is_file():
        pytest.skip(f"needs the published trace ../shared/data/traces/{path.name}")
    deployment = {
        "model": "Llama-3-8B",
        "pools": {
            "all": {
                "phases": ["prefill", "decode"],
                "device": "A100-80GB",
                "scheduler": {"policy": "sarathi", "max_tokens": 512, "max_batch": 512},
            }
        },
    }
    run = simulate(
        deployment, requests=None, trace={"format": "azure", "path": str(path), "limit": 500}, **TRACED
    )
    requests = run.requests
    assert statuses(run) == ["finished"] * 500
    np.testing.assert_array_equal(requests["generated_tokens"], requests["output_tokens"])
    assert (requests["prompt_tokens"][0], requests["output_tokens"][0]) == (374, 44)
    assert (run.column("ttft") > 0).all()
    assert (run.column("tpot")[requests["output_tokens"] > 1] > 0).all()


# Images ----------------------------------------------------------------------------------------------


def pools_of(*phases: list[str]) -> dict[str, Any]:
    """A vision-language model over pools of these phases."""
    pools = {}
    for of_pool in phases:
        policy = "encode" if of_pool == ["encode"] else "sarathi"
        name = "-".join(of_pool)
        pools[name] = {"phases": of_pool, "device": "A10", "scheduler": {"policy": policy}}
    return {"model": "Qwen2.5-VL-3B", "pools": pools}


def test_images_go_through_three_pools(simulate: Callable[..., Run]) -> None:
    run = simulate(pools_of(["encode"], ["prefill"], ["decode"]), images=IMAGES, requests=10)
    requests = run.requests
    assert statuses(run) == ["finished"] * 10
    assert requests["images"].tolist() == [1] * 10
    assert requests["image_tokens"].tolist() == [56] * 10, "8 x 7 patches of 28 x 28 pixels"
    decoded = requests["output_tokens"] > 1
    assert set(requests["encode_instance"]) == {0}
    assert set(requests["prefill_instance"]) == {1}
    assert set(requests["decode_instance"][decoded]) == {2}
    assert (requests["transfer_seconds"] > 0).all()


def test_a_text_model_takes_no_images(simulate: Callable[..., Run], files: tuple[Path, Path]) -> None:
    with pytest.raises(SpecError, match="images: opt-125m takes no images"):
        simulate(images=IMAGES)
    files[1].write_text(dump_yaml({**WORKLOAD, "images": IMAGES}), encoding="utf-8")
    with pytest.raises(SpecError, match=r"workload\.yaml: images: opt-125m takes no images"):
        triptych.simulate(*files)


def test_images_need_a_pool_that_encodes(simulate: Callable[..., Run]) -> None:
    with pytest.raises(SpecError, match=r"pools: no pool runs encode.*add encode"):
        simulate(pools_of(["prefill", "decode"]), images=IMAGES)
    assert simulate(pools_of(["prefill", "decode"])).finished.all(), "text alone needs none"


def test_an_encode_pool_needs_a_vision_tower(simulate: Callable[..., Run]) -> None:
    with pytest.raises(SpecError, match=r"pools\.encode\.phases: opt-125m has no vision tower"):
        simulate({**pools_of(["encode"], ["prefill", "decode"]), "model": "opt-125m"})


def test_an_image_too_small_for_the_model_names_its_size(simulate: Callable[..., Run]) -> None:
    images = {"sizes": [{"width": 1, "height": 4000}]}
    with pytest.raises(SpecError, match="images: 1x4000 "):
        simulate(pools_of(["encode", "prefill", "decode"]), images=images)


def test_overrides_of_an_object_are_refused_rather_than_ignored() -> None:
    made = Deployment.parse(
        {
            "model": "opt-125m",
            "pools": {
                "all": {"phases": ["prefill", "decode"], "device": "A10", "scheduler": {"policy": "vllm"}}
            },
        }
    )
    with pytest.raises(SpecError, match=r"overrides: pools\.all\.instances=7: overrides change files"):
        triptych.simulate(made, "missing.yaml", overrides=["pools.all.instances=7"])


def test_a_device_of_ones_own_goes_into_any_node(tmp_path: Path) -> None:
    """As it is known by another name, nothing says that the node is not built with it."""
    file = tmp_path / "mine.yaml"
    file.write_text(catalog.device("H100").model_copy(update={"name": "mine"}).to_yaml(), encoding="utf-8")
    pool = {**DEPLOYMENT["pools"]["all"], "device": str(file), "node": "DGX-A100"}
    (plan,) = plan_pools(Deployment.parse({**DEPLOYMENT, "pools": {"all": pool}}))
    assert plan.node is not None
    assert plan.node.name == "DGX-A100"


def test_pools_that_hand_kv_on_keep_it_in_one_format() -> None:
    pool = {"device": "H100", "scheduler": {"policy": "vllm"}}
    mixed = Deployment.parse(
        {
            "model": "opt-125m",
            "pools": {
                "p": {"phases": ["prefill"], **pool},
                "d": {"phases": ["decode"], "precision": {"kv": "fp8"}, **pool},
            },
        }
    )
    with pytest.raises(SpecError, match="pools: pools p and d keep KV in bf16 and fp8"):
        plan_pools(mixed)


def test_a_prompt_may_take_the_memory_of_all_stages_under_unified() -> None:
    """120,000 tokens of Llama-3.1-8B are 15.7 GB; two stages of 24 GB leave 25 GB to KV."""
    pool = {"phases": ["prefill", "decode"], "device": "A10", "parallel": {"pipeline": 2}}
    pool |= {"memory_fraction": 0.95, "scheduler": {"policy": "unified"}}
    deployment = Deployment.parse({"model": "Llama-3.1-8B", "pools": {"all": pool}})
    workload = {
        "requests": 2,
        "arrivals": {"kind": "at-once"},
        "prompt": {"kind": "fixed", "tokens": 120_000},
        "output": {"kind": "fixed", "tokens": 20},
    }
    run = triptych.simulate(deployment, WorkloadSpec.parse(workload))
    assert run.column("status").tolist() == ["finished"] * 2
    (usage,) = [pool.usage for pool in triptych.summarise(run).pools]
    assert usage.kv_peak_share is not None
    assert 0.5 < usage.kv_peak_share <= 1
    assert usage.memory_peak_share is None or usage.memory_peak_share <= 0.95


def test_what_is_longer_than_the_model_reaches_is_rejected() -> None:
    pool = {"phases": ["prefill", "decode"], "device": "A100-80GB", "scheduler": {"policy": "vllm"}}
    deployment = Deployment.parse({"model": "Llama-3-8B", "pools": {"all": pool}})
    for output, status in ((1193, "finished"), (1194, "rejected")):  # the last token is never stored
        workload = {
            "requests": 1,
            "arrivals": {"kind": "at-once"},
            "prompt": {"kind": "fixed", "tokens": 7000},
            "output": {"kind": "fixed", "tokens": output},
        }
        run = triptych.simulate(deployment, WorkloadSpec.parse(workload))
        assert run.column("status").tolist() == [status]
