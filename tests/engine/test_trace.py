"""The first batches of a worker are watched: how long the device was at work in each range, and how fast."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from triptych.engine.build import Instance, build
from triptych.engine.messages import ImageInput, Sampling, Submit
from triptych.engine.server.main import serve as run_server
from triptych.engine.trace import Tracer, columns, overlap
from triptych.policy import Batch
from triptych.policy.request import Image, Request
from triptych.record import read_run
from triptych.spec.base import SpecError
from triptych.spec.deployment import Deployment

from . import tiny

INTERVALS = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 20)).map(
        lambda pair: (float(pair[0]), float(pair[0] + pair[1]))
    ),
    max_size=12,
)


def declared(family: str, folder: Path) -> Deployment:
    return Deployment.parse(
        {
            "model": f"random:{tiny.config_file(family, folder)}",
            "pools": {
                "all": {
                    "phases": ["encode", "prefill", "decode"] if "vl" in family else ["prefill", "decode"],
                    "device": "CPU",
                    "precision": {"weights": "fp32", "kv": "fp32", "compute": "fp32"},
                    "scheduler": {"policy": "unified", "max_batch": 4, "max_tokens": 64},
                    "kv_blocks": 40,
                    "embedding_cache": "1 MB" if "vl" in family else None,
                }
            },
        }
    )


def instance(family: str, folder: Path) -> Instance:
    torch.set_num_threads(1)
    return build(declared(family, folder), folder / "deployment.yaml", record=folder / "record")


def serve(made: Instance, tracer: Tracer, *, image: bool) -> None:
    shown = [ImageInput(1, (1, 2, 4), 2, bytes(2 * 4 * 3 * 14 * 14))] if image else []
    tokens = [508, 510, 510, 509, *range(20)] if image else list(range(20))
    made.engine.turn([Submit("0", tokens, Sampling(max_tokens=6, temperature=0.0, ignore_eos=True), shown)])
    while made.engine.busy:
        tracer.compute()
        made.engine.turn()


def test_the_record_tells_what_the_device_did(tmp_path: Path) -> None:
    made = instance("qwen2_5_vl", tmp_path)
    before = made.engine.runner.range
    tracer = Tracer(made.engine, made.plan, 5)
    serve(made, tracer, image=True)
    assert made.engine.runner.range is before  # the two batches that came later were not watched
    made.write_record()
    tracer.write(tmp_path / "record")

    record = tmp_path / "record"
    assert {path.name for path in record.iterdir()} >= {"throughput.json", "throughput.md", "run.json"}
    ranges = json.loads((record / "throughput.json").read_text())["ranges"]
    passes = {each["range"]: each["passes"] for each in ranges}
    assert passes == {"encode": 1, "prompt": 1, "token": 3}
    for each in ranges:
        assert 0 < each["kernel_seconds"] <= each["wall_seconds"]
        assert each["kernel_share"] == pytest.approx(each["kernel_seconds"] / each["wall_seconds"])
        assert each["flops"] == pytest.approx(each["flop"] / each["kernel_seconds"])
        assert each["bandwidth"] == pytest.approx(each["bytes"] / each["kernel_seconds"])
    text = (record / "throughput.md").read_text().splitlines()
    assert len(text) == 5
    assert text[2].startswith("| encode | 1 |")
    with gzip.open(record / "kernels.trace.json.gz") as file:
        names = {event.get("name") for event in json.load(file)["traceEvents"]}
    assert {"triptych.encode", "triptych.prompt", "triptych.token"} <= names


def test_the_ranges_share_the_work_of_the_batch_log(tmp_path: Path) -> None:
    made = instance("qwen2_5_vl", tmp_path)
    tracer = Tracer(made.engine, made.plan, 1000)
    serve(made, tracer, image=True)
    made.write_record()
    tracer.write(tmp_path / "record")
    found = tracer.throughput()
    batches = read_run(tmp_path / "record").lanes[0].columns
    flop, moved = made.plan.cost.work(batches)
    assert sum(each.flop for each in found) == pytest.approx(flop.sum())
    assert sum(each.bytes for each in found) == pytest.approx(moved.sum())


def test_a_worker_that_ran_nothing_writes_nothing(tmp_path: Path) -> None:
    made = instance("llama", tmp_path)
    tracer = Tracer(made.engine, made.plan, 3)
    tracer.compute()
    folder = tmp_path / "none"
    folder.mkdir()
    tracer.write(folder)
    assert not list(folder.iterdir())


def test_what_was_seen_needs_a_place(tmp_path: Path) -> None:
    file = tmp_path / "deployment.yaml"
    file.write_text(declared("llama", tmp_path).to_yaml())
    with pytest.raises(SpecError, match="--profile-batches: joins the run record; add --record FOLDER"):
        run_server(file, profile_batches=3)


def test_images_are_counted_apart_from_tokens() -> None:
    request = Request(0, 8, 1)
    batch = Batch(decodes=2, decode_kv=30, images=[(request, Image(16, 4, 1)), (request, Image(8, 2, 2))])
    images, text = columns(batch, images=True), columns(batch, images=False)
    assert (images["patches"], images["patch_pairs"], images["decodes"]) == (24, 16 * 16 + 8 * 8, 0)
    assert (text["patches"], text["patch_pairs"], text["decodes"], text["decode_kv"]) == (0, 0, 2, 30)


@given(passes=INTERVALS, work=INTERVALS)
def test_time_at_work_is_that_covered_by_any_kernel(
    passes: list[tuple[float, float]], work: list[tuple[float, float]]
) -> None:
    seconds = [
        sum(any(start <= at < end for start, end in work) for at in range(int(first), int(last)))
        for first, last in passes
    ]
    assert overlap(passes, work) == seconds
