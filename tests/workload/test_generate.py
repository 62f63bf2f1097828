"""Requests as a whole: repeatable, each aspect on its own, and what they carry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from triptych.spec.base import SpecError
from triptych.spec.workload import WorkloadSpec
from triptych.workload import Requests, generate, write_parquet
from triptych.workload.streams import stream

Declare = Callable[..., WorkloadSpec]
Differing = Callable[[Requests, Requests], list[str]]

IMAGES = {
    "share": 0.6,
    "count": {"low": 1, "high": 3},
    "sizes": [
        {"width": 640, "height": 480, "weight": 3},
        {"width": 1920, "height": 1080, "weight": 1},
    ],
}
PREFIXES = {"groups": 5, "tokens": 64, "share": 0.7}
EVERYTHING = {
    "images": IMAGES,
    "prefixes": PREFIXES,
    "timeout": 30,
    "aborts": {"share": 0.3, "after": 20},
}


class TestRepeatable:
    def test_an_equal_seed_gives_equal_requests(self, declare: Declare, differing: Differing) -> None:
        spec = declare(**EVERYTHING)
        assert differing(generate(spec), generate(spec)) == []

    def test_another_seed_gives_other_requests(self, declare: Declare, differing: Differing) -> None:
        one, two = generate(declare(**EVERYTHING)), generate(declare(**EVERYTHING, seed=1))
        assert {"arrival", "text_tokens", "output_tokens", "patience"} <= set(differing(one, two))

    def test_the_seeding_is_fixed_for_good(self) -> None:
        """A change of it would silently change everybody's workloads."""
        assert stream(0, "prompt").bit_generator.random_raw() == 737248938541478852

    def test_more_requests_leave_the_first_as_they_were(self, declare: Declare, differing: Differing) -> None:
        few, many = (generate(declare(**EVERYTHING, requests=n)) for n in (100, 1000))
        assert differing(few, many.take(slice(100))) == []


@pytest.mark.parametrize(
    ("change", "columns"),
    [
        (
            {"images": IMAGES},
            {"image_offsets", "image_width", "image_height", "image_content"},
        ),
        ({"prefixes": PREFIXES}, {"prefix_offsets", "prefix_ids", "prefix_block_tokens"}),
        ({"aborts": {"share": 0.5, "after": 9}}, {"patience", "gives_up_by_abort"}),
        ({"timeout": 9}, {"patience"}),
        ({"prompt": {"kind": "fixed", "tokens": 9}}, {"text_tokens"}),
        ({"output": {"kind": "fixed", "tokens": 9}}, {"output_tokens"}),
        ({"arrivals": {"kind": "gamma", "rate": 1, "cv": 2}}, {"arrival"}),
        ({"arrivals": {"kind": "closed", "concurrency": 7}}, {"arrival", "concurrency"}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_aspect_changes_its_own_columns_only(
    declare: Declare, differing: Differing, change: dict[str, Any], columns: set[str]
) -> None:
    assert set(differing(generate(declare()), generate(declare(**change)))) == columns


class TestImages:
    def test_share_and_count(self, declare: Declare) -> None:
        counts = generate(declare(requests=50_000, images=IMAGES)).image_counts
        assert (counts > 0).mean() == pytest.approx(0.6, abs=0.01)
        assert counts.max() == 3
        assert counts[counts > 0].mean() == pytest.approx(2, abs=0.02)

    def test_sizes_are_met_by_their_weight(self, declare: Declare) -> None:
        requests = generate(declare(requests=50_000, images=IMAGES))
        small = requests.image_width == 640
        assert small.mean() == pytest.approx(0.75, abs=0.01)
        assert set(requests.image_height[small]) == {480}
        assert set(requests.image_height[~small]) == {1080}

    def test_every_image_is_new_unless_told_otherwise(self, declare: Declare) -> None:
        content = generate(declare(images=IMAGES)).image_content
        assert len(set(content)) == len(content)

    def test_of_few_different_images_all_are_met_each_with_one_size(self, declare: Declare) -> None:
        requests = generate(declare(images={**IMAGES, "distinct": 20}))
        size_of = set(zip(requests.image_content, requests.image_width, strict=True))
        assert len(size_of) == len(set(requests.image_content)) == 20


class TestPrefixes:
    def test_share_groups_and_length(self, declare: Declare) -> None:
        requests = generate(declare(requests=20_000, prefixes=PREFIXES))
        assert np.diff(requests.prefix_offsets).mean() == pytest.approx(0.7, abs=0.015)
        np.testing.assert_allclose(np.bincount(requests.prefix_ids), 20_000 * 0.7 / 5, rtol=0.06)
        assert requests.prefix_block_tokens == 64

    def test_one_group_shares_its_blocks_and_two_share_none(self, declare: Declare) -> None:
        prompt = {"kind": "fixed", "tokens": 100}
        requests = generate(declare(prompt=prompt, prefixes={"groups": 2, "tokens": 64}))
        by_group = {int(requests.prefix_ids[i]): requests.block_hashes(i, 16, 100) for i in range(20)}
        assert [len(hashes) for hashes in by_group.values()] == [4, 4]
        assert not set(by_group[0]) & set(by_group[1])
        assert all(
            requests.block_hashes(i, 16, 100) == by_group[int(requests.prefix_ids[i])] for i in range(1000)
        )

    def test_a_prompt_shorter_than_the_system_prompt_shares_what_it_has(self, declare: Declare) -> None:
        prompt = {"kind": "fixed", "tokens": 40}
        requests = generate(declare(prompt=prompt, prefixes={"groups": 1, "tokens": 64}))
        assert len(requests.block_hashes(0, 16, 40)) == 2


class TestPatience:
    def test_nobody_gives_up_unless_declared(self, declare: Declare) -> None:
        assert np.isinf(generate(declare()).patience).all()

    def test_a_time_out_is_everybody_s(self, declare: Declare) -> None:
        requests = generate(declare(timeout="5 s"))
        assert set(requests.patience) == {5.0}
        assert not requests.gives_up_by_abort.any()

    def test_aborts_have_their_share_and_mean(self, declare: Declare) -> None:
        requests = generate(declare(requests=50_000, aborts={"share": 0.3, "after": 20}))
        aborts = requests.gives_up_by_abort
        assert aborts.mean() == pytest.approx(0.3, abs=0.01)
        assert requests.patience[aborts].mean() == pytest.approx(20, rel=0.03)
        assert np.isinf(requests.patience[~aborts]).all()

    def test_whichever_comes_first_counts(self, declare: Declare) -> None:
        requests = generate(declare(timeout=10, aborts={"share": 1, "after": 20}))
        aborts = requests.gives_up_by_abort
        assert aborts.any()
        assert (requests.patience[aborts] < 10).all()
        assert (requests.patience[~aborts] == 10).all()


def test_a_closed_loop_says_how_many_are_under_way(declare: Declare) -> None:
    requests = generate(declare(arrivals={"kind": "closed", "concurrency": 7}))
    assert requests.concurrency == 7
    assert not requests.arrival.any()


def test_caps_apply_whatever_the_lengths_come_from(declare: Declare) -> None:
    requests = generate(declare(caps={"prompt": 200, "total": 220}))
    assert requests.text_tokens.max() == 200
    assert (requests.text_tokens + requests.output_tokens).max() == 220


def test_a_duration_in_which_nothing_comes_is_an_error(declare: Declare) -> None:
    with pytest.raises(SpecError, match="duration: no request comes within it; make it longer"):
        generate(declare(duration=1e-6))


class TestFromATrace:
    @pytest.fixture
    def trace(self, declare: Declare, tmp_path: Path) -> dict[str, str]:
        """Ten requests with images, prefixes and patience."""
        write_parquet(generate(declare(**EVERYTHING, requests=10)), tmp_path / "trace.parquet")
        return {"format": "parquet", "path": str(tmp_path / "trace.parquet")}

    @pytest.fixture
    def ten(self, declare: Declare) -> Requests:
        return generate(declare(**EVERYTHING, requests=10))

    def test_a_replay_is_the_trace(self, trace: dict[str, str], ten: Requests, differing: Differing) -> None:
        assert differing(generate(WorkloadSpec.parse({"trace": trace})), ten) == []

    def test_its_requests_come_in_order_and_again_at_other_times(
        self, trace: dict[str, str], ten: Requests, differing: Differing
    ) -> None:
        poisson = {"kind": "poisson", "rate": 3}
        spec = WorkloadSpec.parse({"trace": trace, "arrivals": poisson, "requests": 25})
        requests = generate(spec)
        rows = np.arange(25) % 10
        assert differing(requests, ten.take(rows, requests.arrival)) == []

    def test_other_prompts_leave_its_images_and_prefixes_behind(
        self, trace: dict[str, str], ten: Requests, differing: Differing
    ) -> None:
        prompt = {"kind": "fixed", "tokens": 9}
        requests = generate(WorkloadSpec.parse({"trace": trace, "prompt": prompt}))
        assert len(requests.image_content) == len(requests.prefix_ids) == 0
        assert {"arrival", "output_tokens", "patience"}.isdisjoint(differing(requests, ten))

    def test_its_patience_and_a_time_out_both_count(self, trace: dict[str, str], ten: Requests) -> None:
        requests = generate(WorkloadSpec.parse({"trace": trace, "timeout": 3}))
        np.testing.assert_array_equal(requests.patience, np.minimum(ten.patience, 3))
        assert not (requests.gives_up_by_abort & (requests.patience == 3)).any()

    @pytest.mark.parametrize("section", ["images", "prefixes"])
    def test_what_it_brings_may_not_also_be_declared(self, trace: dict[str, str], section: str) -> None:
        spec = WorkloadSpec.parse({"trace": trace, section: EVERYTHING[section]})
        with pytest.raises(SpecError, match=f"{section}: prompts of the trace bring their own"):
            generate(spec)

    @pytest.mark.parametrize("bound", [{"duration": 3}, {"rate_scale": 2}], ids=str)
    def test_a_closed_loop_has_no_times(
        self, declare: Declare, tmp_path: Path, bound: dict[str, float]
    ) -> None:
        path = tmp_path / "closed.parquet"
        closed = generate(declare(requests=5, arrivals={"kind": "closed", "concurrency": 2}))
        write_parquet(closed, path)
        trace = {"format": "parquet", "path": str(path)}
        assert generate(WorkloadSpec.parse({"trace": trace})).concurrency == 2
        with pytest.raises(SpecError, match="the trace is a closed loop and has no times"):
            generate(WorkloadSpec.parse({"trace": trace, **bound}))
