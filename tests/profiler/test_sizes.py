"""Which batches are measured."""

from __future__ import annotations

import pytest

from triptych import catalog
from triptych.profiler.sizes import (
    Case,
    HostCase,
    ImageCase,
    Limits,
    cases,
    image_cases,
    mixed_cases,
    mixed_images,
    text_cases,
)

LIMITS = Limits(tokens=1024, batch=32, context=2048, kv=20000, patches=1024)


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("model", ["OPT-125M", "Qwen3-30B-A3B", "Qwen2.5-VL-7B"])
def test_no_batch_is_beyond_the_limits(model: str, quick: bool) -> None:
    for case in cases(catalog.model(model), LIMITS, quick=quick, checks=20):
        if isinstance(case, ImageCase):
            assert case.patches <= LIMITS.patches
            continue
        if isinstance(case, HostCase):
            assert case.decodes <= LIMITS.batch and case.prompt < LIMITS.context
            continue
        assert case.tokens <= LIMITS.tokens
        assert len(case.decodes) <= LIMITS.batch
        assert case.kv <= LIMITS.kv
        assert max([sum(chunk) for chunk in case.chunks] + list(case.decodes)) <= LIMITS.context


def test_the_limits_themselves_are_measured() -> None:
    found = text_cases(LIMITS, None, quick=True)
    assert max(case.tokens for case in found) == LIMITS.tokens
    assert max(len(case.decodes) for case in found) == LIMITS.batch
    assert max(max(case.decodes, default=0) for case in found) == LIMITS.context


def test_what_is_learned_from_holds_one_kind_of_attention() -> None:
    for case in text_cases(LIMITS, None, quick=False):
        assert bool(case.chunks) != bool(case.decodes)
        assert len(case.chunks) <= 1


def test_the_coarse_grid_comes_first_and_every_batch_once() -> None:
    model = catalog.model("Qwen2.5-VL-7B")
    coarse, fine = (cases(model, LIMITS, quick=quick, checks=0) for quick in (True, False))
    assert fine[: len(coarse)] == coarse
    assert len(fine) > 2 * len(coarse)
    assert len({case.name for case in fine}) == len(fine)


def test_checks_are_dealt_among_the_others() -> None:
    found = cases(catalog.model("OPT-125M"), LIMITS, quick=False, checks=9)
    places = [index for index, case in enumerate(found) if case.check]
    assert len(places) == 9
    gaps = [after - before for before, after in zip([-1, *places], [*places, len(found)], strict=True)]
    assert max(gaps) <= 2 * len(found) / 10


def test_mixed_batches_are_the_same_every_time() -> None:
    assert mixed_cases(LIMITS, 10) == mixed_cases(LIMITS, 10)
    assert any(case.chunks and case.decodes for case in mixed_cases(LIMITS, 10))


def test_experts_are_held_to_fewer_only_where_there_are_some() -> None:
    dense = text_cases(LIMITS, None, quick=True)
    assert not any(case.experts for case in dense)
    experts = catalog.model("Qwen3-30B-A3B").text.experts
    held = {case.experts for case in text_cases(LIMITS, experts, quick=True)}
    assert held == {0, 8, 32, 64}


def test_images_are_whole_numbers_of_merged_patches() -> None:
    vision = catalog.model("Qwen2.5-VL-7B").vision
    assert vision is not None
    single, several = image_cases(vision, LIMITS, quick=False), mixed_images(vision, LIMITS, 5)
    assert len(single) > 5 and {len(case.grids) for case in single} == {1}
    assert len(several) == 5 and all(case.check and len(case.grids) > 1 for case in several)
    for rows, columns in (grid for case in single + several for grid in case.grids):
        assert rows % vision.merge == columns % vision.merge == 0


def test_a_name_tells_batches_apart() -> None:
    assert Case(((64, 0),)).name != Case(((64, 16),)).name
    assert Case(decodes=(16, 16)).name != Case(decodes=(16, 32)).name
    assert Case(((64, 0),)).name != Case(((64, 0),), check=True).name
    assert Case(((64, 0),)).name != Case(((64, 0),), experts=8).name
