"""A device without a profile gets the efficiencies of its relatives."""

from __future__ import annotations

import numpy as np
import pytest

from triptych import catalog
from triptych.cost.loads import Load
from triptych.cost.operators import Formats, Operator
from triptych.cost.placement import operators
from triptych.cost.relatives import with_efficiency_of_relatives
from triptych.cost.roofline import Roofline
from triptych.profiles import Profile, ProfileInfo, joined, profile_of
from triptych.spec.base import SpecError
from triptych.spec.deployment import Parallelism, Precisions
from triptych.spec.device import Efficiency

TOKENS = np.array([1, 8, 32, 512, 2048])
MODEL = catalog.model("Llama-3.1-8B")
H100 = catalog.device("H100")
INFO = ProfileInfo(name="of an H100", device="H100", source="this test")


def perfect() -> Roofline:
    peaks = Efficiency(matmul=1, attention=1, memory=1, network=1, source="")
    return Roofline(H100.model_copy(update={"efficiency": peaks, "launch_overhead": 0.0}))


def measured(large: float, small: float) -> Profile:
    """Matrix products at these shares of the peak, from 256 tokens on and below."""
    listed = operators(MODEL, H100, None, Parallelism(), Formats.of(Precisions()))
    products = [each for each in listed if each.name in ("qkv", "mlp up")]
    return joined(INFO, [_rows(each, large, small) for each in products])


def _rows(operator: Operator, large: float, small: float) -> Profile:
    none = np.zeros(1)
    ideal = perfect().seconds(operator, Load(TOKENS.astype(np.float64), none, none))
    columns = {"model": MODEL.name, "units": TOKENS, "seconds": ideal / np.where(TOKENS >= 256, large, small)}
    return profile_of(INFO, {"operator": np.full(len(TOKENS), operator.name, dtype=object), **columns})


def test_efficiencies_come_from_a_device_of_the_same_architecture() -> None:
    h200 = catalog.device("H200")
    related = with_efficiency_of_relatives(h200, [measured(0.7, 0.8)])
    assert related.efficiency.matmul == pytest.approx(0.7)
    assert related.efficiency.memory == pytest.approx(0.8)
    assert related.efficiency.network == h200.efficiency.network
    assert "of an H100" in related.efficiency.source
    assert related.flops == h200.flops


def test_another_architecture_teaches_nothing() -> None:
    with pytest.raises(SpecError, match="nothing was measured on another Ampere device"):
        with_efficiency_of_relatives(catalog.device("A100-80GB"), [measured(0.7, 0.8)], field="profile")


def test_several_prompts_in_one_launch_are_so_much_more_work() -> None:
    prefill = next(
        each
        for each in operators(MODEL, H100, None, Parallelism(), Formats.of(Precisions()))
        if each.name == "prefill attention"
    )
    line = perfect().attention(prefill)
    seconds = 4 * line.seconds(2048, 2048 * 2049 / 2, 2048) / 0.6
    columns = {"model": MODEL.name, "operator": ["prefill attention"], "units": 2048, "prompts": 4}
    profile = profile_of(INFO, {**columns, "seconds": seconds})
    related = with_efficiency_of_relatives(catalog.device("H200"), [profile])
    assert related.efficiency.attention == pytest.approx(0.6)


def test_no_device_is_better_than_its_data_sheet() -> None:
    related = with_efficiency_of_relatives(catalog.device("H200"), [measured(1.3, 0.8)])
    assert related.efficiency.matmul == 1.0
