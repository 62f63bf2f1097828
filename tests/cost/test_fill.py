"""Tables: whatever the model runs is in them once, by its own measurement or by the roofline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from triptych.cost import IterationCost
from triptych.cost.fill import fill
from triptych.cost.fill_attention import Limits
from triptych.cost.loads import Load
from triptych.cost.measured import MeasuredTimes
from triptych.cost.operators import Formats, Operator
from triptych.cost.placement import operators
from triptych.cost.roofline import Roofline
from triptych.cost.source import INTERPOLATED, MEASURED, ROOFLINE
from triptych.cost.tables import Tables, load_tables, save_tables
from triptych.policy.batch import Batch
from triptych.profiles import Profile, ProfileInfo, joined, profile_of
from triptych.spec.calibration import Calibration, Factors

from . import shapes

INFO = ProfileInfo(name="made up", device="A100-80GB", source="this test")
TOKENS = np.array([1, 8, 64, 512, 2048])
NONE = np.zeros(1)
MODEL, POOL = shapes.LLAMA_3_8B, shapes.pool()
OPERATORS = {
    each.name: each for each in operators(MODEL, shapes.REAL, None, POOL.parallel, Formats.of(POOL.precision))
}
ROOF = Roofline(shapes.REAL)


def rows(operator: str, seconds: Any, **columns: Any) -> Profile:
    return profile_of(
        INFO,
        {"operator": np.full(len(TOKENS), operator, dtype=object), "seconds": seconds}
        | {"model": MODEL.name, "units": TOKENS}
        | columns,
    )


def attention() -> Profile:
    """Twice what the roofline says."""
    line = ROOF.attention(OPERATORS["decode attention"])
    sizes = np.array([(n, kv) for n in (1, 8, 64) for kv in (16, 256, 4096)])
    seconds = [2 * line.seconds(n, n * kv, n * kv) for n, kv in sizes]
    of = {"model": MODEL.name, "decodes": sizes[:, 0], "decode_kv": sizes[:, 1], "seconds": seconds}
    decode = profile_of(INFO, of | {"operator": np.full(9, "decode attention", dtype=object)})
    sizes = np.array([(q, h) for q in (16, 128, 1024) for h in (0, 512, 4096)])
    seconds = [
        2 * ROOF.attention(OPERATORS["prefill attention"]).seconds(q, q * (h + (q + 1) / 2), h + q)
        for q, h in sizes
    ]
    of = {"model": MODEL.name, "units": sizes[:, 0], "history": sizes[:, 1], "seconds": seconds}
    return joined(
        INFO, [decode, profile_of(INFO, of | {"operator": np.full(9, "prefill attention", object)})]
    )


def tables(*profiles: Profile, tensor: int = 1) -> Tables:
    listed = list(OPERATORS.values())
    return fill(list(profiles), MODEL, listed, ROOF, Limits(4096, 8192, 128), tensor=tensor)


def at(found: Tables, name: str, units: float) -> float:
    load = Load(np.array([units]), NONE, NONE)
    return float(MeasuredTimes(found, ROOF).seconds(OPERATORS[name], load)[0])


def ideal(name: str, units: float) -> float:
    return float(ROOF.seconds(OPERATORS[name], Load(np.array([units]), NONE, NONE))[0])


def test_a_measurement_counts_where_there_is_one_and_the_roofline_elsewhere() -> None:
    found = tables(rows("qkv", TOKENS * 1e-6))
    assert at(found, "qkv", 64) == pytest.approx(64e-6)
    assert at(found, "mlp up", 64) == pytest.approx(ideal("mlp up", 64))
    assert at(found, "qkv", 8192) == pytest.approx(2048e-6 * ideal("qkv", 8192) / ideal("qkv", 2048))
    assert at(found, "qkv", 0) == 0


def test_operators_that_one_kernel_fuses_are_counted_once() -> None:
    found = tables(rows("norm+residual add", TOKENS * 1e-6), rows("norm", TOKENS * 5e-6))
    assert at(found, "norm", 64) == pytest.approx(64e-6)  # the fused kernel is what runs
    assert at(found, "residual add", 64) == 0


def test_kernels_that_do_an_operator_together_add_up() -> None:
    found = tables(joined(INFO, [rows("qk norm", TOKENS * 1e-6), rows("rope and KV write", TOKENS * 2e-6)]))
    assert at(found, "rope and KV write", 64) == pytest.approx(3 * 64e-6)


def test_another_model_or_parallelism_teaches_nothing() -> None:
    assert not tables(rows("qkv", TOKENS * 1e-6, model="another")).curves
    assert not tables(rows("qkv", TOKENS * 1e-6), tensor=2).curves
    assert not tables(rows("qkv", TOKENS * 1e-6, precision="fp32")).curves
    assert tables(rows("qkv", TOKENS * 1e-6, precision="fp16")).curves


def test_kernels_of_any_model_are_found_by_shape() -> None:
    operator = OPERATORS["qkv"]
    sizes = [
        (units, operator.inputs * a, operator.outputs * b)
        for units in (1, 16, 128, 1024, 4096)
        for a in (0.5, 1, 2)
        for b in (0.5, 1, 2)
    ]
    columns = np.array(sizes)
    seconds = 1.5 * ROOF.matmul(operator, *columns.T, 2.0)
    kernels = profile_of(
        INFO,
        {"operator": np.full(len(sizes), "matmul", dtype=object), "seconds": seconds}
        | {"units": columns[:, 0], "inputs": columns[:, 1], "outputs": columns[:, 2]},
    )
    found = tables(kernels)
    assert at(found, "qkv", 128) == pytest.approx(1.5 * ideal("qkv", 128), rel=0.02)


def test_attention_is_measured_for_both_phases_or_for_none() -> None:
    found = tables(attention())
    assert found.decode is not None
    sizes = np.array([[8.0, 256.0]])
    line = ROOF.attention(OPERATORS["decode attention"])
    assert found.decode.at(sizes)[0] == pytest.approx(2 * line.seconds(8, 8 * 256, 8 * 256))
    only = attention().of(operator="decode attention")
    assert tables(only).decode is None


def test_unequal_lengths_are_learned_from_rows_that_have_them() -> None:
    whole = attention()
    decode = tables(whole).decode
    assert decode is not None
    mean, longest = (decode.at(np.array([[8.0, kv]]))[0] for kv in (256.0, 4096.0))
    uneven = profile_of(
        INFO,
        {"operator": np.array(["decode attention"] * 2, dtype=object), "model": MODEL.name}
        | {"decodes": 8, "decode_kv": 256, "longest_kv": 4096, "seconds": mean + 0.3 * (longest - mean)},
    )
    assert tables(joined(INFO, [whole, uneven])).unequal == pytest.approx(0.3)


def test_launches_of_several_prompts_teach_what_they_share_and_no_size_of_the_grid() -> None:
    whole = attention()
    alone = whole.of(operator="prefill attention").columns
    several = profile_of(
        INFO,
        {"operator": np.full(9, "prefill attention", dtype=object), "model": MODEL.name, "prompts": 32}
        | {"units": alone["units"], "history": alone["history"], "seconds": 8 * alone["seconds"]},
    )
    one, both = tables(whole), tables(joined(INFO, [whole, several]))
    assert one.prefill is not None
    assert both.prefill is not None
    np.testing.assert_array_equal(both.prefill.seconds, one.prefill.seconds)
    assert one.together is not None
    assert both.together is not None
    assert both.together.per_pair < one.together.per_pair / 2
    apart = Profile(INFO.model_copy(update={"chunks": "apart"}), whole.columns)
    assert tables(apart).together is None


def test_host_time_is_learned_from_iterations() -> None:
    host = rows("iteration", 1e-3 + TOKENS * 2e-6, decodes=TOKENS)
    found = tables(host)
    assert (found.iteration, found.sequence) == pytest.approx((1e-3, 2e-6), rel=1e-6)


def test_tables_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    found = tables(rows("qkv", TOKENS * 1e-6), attention())
    save_tables(found, tmp_path / "a" / "tables.npz")
    again = load_tables(tmp_path / "a" / "tables.npz")
    assert again is not None
    assert again.fits == found.fits
    assert again.covered == found.covered
    assert again.together == found.together
    assert found.prefill is not None
    assert again.prefill is not None
    np.testing.assert_array_equal(again.prefill.seconds, found.prefill.seconds)
    np.testing.assert_array_equal(again.curves["qkv"].seconds, found.curves["qkv"].seconds)
    (tmp_path / "a" / "tables.npz").write_bytes(b"half of a f")
    assert load_tables(tmp_path / "a" / "tables.npz") is None


# What the simulator makes of it --------------------------------------------------------------------------


def cost(found: Tables, calibration: Calibration | None = None) -> IterationCost:
    times = MeasuredTimes(found, ROOF)
    return IterationCost(MODEL, shapes.REAL, None, POOL, times=times, calibration=calibration)


def test_twice_the_measured_time_is_twice_the_iteration() -> None:
    """All text operators at twice the roofline, and no host time: the whole is twice the roofline's."""
    doubled = [
        rows(name, 2 * np.array([ideal(name, units) for units in TOKENS]))
        for name, operator in OPERATORS.items()
        if operator.kind != "attention"
    ]
    found = tables(*doubled, attention())
    batch = Batch((), 8, 8 * 256)
    plain = IterationCost(MODEL, shapes.REAL, None, POOL)
    by_hand = 2 * (plain.run(batch)[0] - shapes.REAL.iteration_overhead)
    assert cost(found).run(batch)[0] == pytest.approx(by_hand, rel=0.01)


def test_a_calibration_scales_classes_and_sets_host_time() -> None:
    found = tables(rows("qkv", TOKENS * 1e-6), attention())
    batch = Batch((), 8, 8 * 256)
    columns = {name: np.zeros(1) for name in COLUMNS} | {"iterations": np.ones(1)}
    columns |= {"sampled": np.array([8]), "decodes": np.array([8]), "decode_kv": np.array([8 * 256])}
    parts, sources = cost(found).breakdown(columns)
    assert sum(part[0] for part in parts.values()) == pytest.approx(cost(found).run(batch)[0])
    assert sources.sum() == pytest.approx(cost(found).run(batch)[0])
    host = Calibration(iteration=1e-3, sequence=1e-5, factors=Factors(matmul=2.0, attention=0.5, memory=3.0))
    expected = 1e-3 + 8e-5 + 2 * parts["matmul"][0] + 0.5 * parts["attention"][0] + 3 * parts["memory"][0]
    assert cost(found, host).run(batch)[0] == pytest.approx(expected)


def test_what_the_time_of_an_operator_rests_on() -> None:
    times = MeasuredTimes(tables(rows("qkv", TOKENS * 1e-6)), ROOF)
    load = Load(np.array([64.0, 65.0, 9999.0]), NONE, NONE)
    assert times.source(OPERATORS["qkv"], load).tolist() == [MEASURED, INTERPOLATED, ROOFLINE]
    assert set(times.source(OPERATORS["mlp up"], load).tolist()) == {ROOFLINE}


COLUMNS = (
    *("iterations", "prefill_tokens", "prefill_pairs", "prefill_kv", "sampled"),
    *("decodes", "decode_kv", "patches", "patch_pairs", "prefilling"),
)


def test_every_operator_is_in_the_tables_or_on_the_roofline() -> None:
    found = tables(rows("qkv", TOKENS * 1e-6))
    times = MeasuredTimes(found, ROOF)

    def known(operator: Operator) -> bool:
        return operator.name in found.curves or operator.name in found.covered

    for operator in OPERATORS.values():
        if operator.kind != "attention" and not known(operator):
            load = Load(np.array([64.0]), NONE, NONE)
            assert times.seconds(operator, load)[0] == pytest.approx(ideal(operator.name, 64))


def test_attention_over_images_is_looked_up_image_by_image() -> None:
    model, pool = shapes.TINY_VISION, shapes.pool(("encode", "prefill", "decode"))
    listed = operators(model, shapes.REAL, None, pool.parallel, Formats.of(pool.precision))
    (full,) = (each for each in listed if each.name == "vision full attention")
    patches = np.array([16, 64, 256])
    columns = {"model": model.name, "units": patches, "seconds": patches * 1e-3}
    measured = profile_of(INFO, {"operator": np.full(3, full.name, dtype=object), **columns})
    found = fill([measured], model, listed, ROOF, Limits(4096, 8192, 128), tensor=1)
    known = IterationCost(model, shapes.REAL, None, pool, times=MeasuredTimes(found, ROOF))
    one, two = (shapes.batch(patches=[64] * count) for count in (1, 2))
    without = IterationCost(model, shapes.REAL, None, pool).run(shapes.batch(patches=[64]))[0]
    assert known.run(one)[0] - without == pytest.approx(full.times * 64e-3, rel=0.05)
    assert known.run(two)[0] - known.run(one)[0] == pytest.approx(full.times * 64e-3, rel=0.05)
