"""The time of an iteration is the sum over its operators, looked up; repeated decodes are a progression."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.cost import UNBOUNDED, IterationCost
from triptych.cost.collectives import Wires, exchanges
from triptych.cost.loads import Load, Over, loads, prefill_sizes
from triptych.cost.operators import Formats, Operator
from triptych.cost.placement import operators, runs, stage_parts
from triptych.cost.roofline import Roofline, peak_flops
from triptych.policy.batch import Batch
from triptych.spec.base import SpecError
from triptych.spec.deployment import Pool
from triptych.spec.device import Device, Efficiency
from triptych.spec.model import Model

from .shapes import (
    LLAMA_3_8B,
    QWEN3_30B_A3B,
    REAL,
    TINY,
    TINY_EXPERTS,
    TINY_MIXED,
    TINY_VISION,
    TINY_WINDOW,
    batch,
    device,
    node,
    pool,
    text,
)

ALL_PHASES = ["encode", "prefill", "decode"]
SETUPS: list[tuple[Model, Pool]] = [
    (TINY, pool()),
    (TINY_WINDOW, pool(tensor=2)),
    (TINY_EXPERTS, pool(tensor=2, data=2, expert=4)),
    (TINY_EXPERTS, pool(data=2)),
    (TINY_VISION, pool(ALL_PHASES, tensor=2)),
    (TINY_EXPERTS, pool(pipeline=2)),
    (LLAMA_3_8B, pool(pipeline=4, tensor=2)),
    (QWEN3_30B_A3B, pool(tensor=2, expert=2)),
]
# FLOP/s so low that attention over many heads is bound by arithmetic, with a crossing on the way.
SLOW = device(
    flops={"bf16": 2e12}, efficiency=Efficiency(matmul=1, attention=0.4, memory=1, network=1, source="")
)

batches = st.builds(
    lambda chunks, contexts, padding, patches: batch(
        *chunks, decodes=len(contexts), decode_kv=sum(contexts), padding=padding, patches=patches
    ),
    st.lists(st.tuples(st.integers(1, 300), st.integers(0, 100), st.booleans()), max_size=3),
    st.lists(st.integers(1, 60), max_size=8),
    st.integers(0, 3),
    st.lists(st.integers(1, 40).map(lambda n: 4 * n), max_size=2),
)


def columns(
    batch: Batch, window: int | None = None, windowed: float = 1.0, iterations: int = 1
) -> dict[str, Any]:
    """The row that a batch leaves in the log."""
    tokens, pairs, kv = prefill_sizes(batch, window, windowed)
    row = {
        "iterations": iterations,
        "prefill_tokens": tokens,
        "prefill_pairs": pairs,
        "prefill_kv": kv,
        "sampled": batch.sampled,
        "decodes": batch.decodes,
        "decode_kv": batch.decode_kv,
        "padding": batch.padding,
        "patches": sum(image.patches for _, image in batch.images),
        "patch_pairs": sum(image.patches**2 for _, image in batch.images),
    }
    return {name: np.array([value]) for name, value in row.items()}


def loads_of(model: Model, batch: Batch, padded: bool = True) -> dict[Over, Load]:
    window, windowed = model.text.sliding_window, model.text.windowed_share
    row = {name: value.astype(float) for name, value in columns(batch, window, windowed).items()}
    if window is not None:
        near = np.minimum(row["decode_kv"], row["decodes"] * window)
        row["decode_kv"] = windowed * near + (1 - windowed) * row["decode_kv"]
    tokens = row["prefill_tokens"] + row["decodes"] + padded * row.pop("padding")
    del row["iterations"]
    return loads(model, tokens=tokens, **row)


def of_device(model: Model, device: Device, pool: Pool) -> list[Operator]:
    return operators(model, device, node(), pool.parallel, Formats.of(pool.precision))


def evaluate(model: Model, device: Device, pool: Pool, batch: Batch) -> float:
    """Seconds by going through the list of operators one by one."""
    load, stages, times = loads_of(model, batch), stage_parts(model, pool.parallel.pipeline), Roofline(device)
    seconds = device.iteration_overhead
    for operator in of_device(model, device, pool):
        seconds += runs(operator, stages) * times.seconds(operator, load[operator.over])[0]
    if batch.tokens:
        message = np.array([batch.tokens * model.text.hidden * 2.0])
        for send in exchanges(Wires(device, node()), pool.parallel).stage_sends:
            seconds += send.seconds(message)[0] + device.launch_overhead
    return seconds


@pytest.mark.parametrize(("model", "pool"), [*SETUPS, (TINY_MIXED, pool()), (TINY_MIXED, pool(pipeline=2))])
@settings(max_examples=25, deadline=None)
@given(batch=batches)
def test_run_is_the_sum_over_operators(model: Model, pool: Pool, batch: Batch) -> None:
    for on in (REAL, SLOW):
        cost = IterationCost(model, on, node(), pool)
        first, growth, valid = cost.run(batch)
        assert first == pytest.approx(evaluate(model, on, pool, batch), rel=1e-9)
        assert sum(cost.stages(batch)) == pytest.approx(first, rel=1e-9)
        assert growth >= 0
        assert valid >= 1


@pytest.mark.parametrize(("model", "pool"), [*SETUPS, (TINY_MIXED, pool())])
@settings(max_examples=25, deadline=None)
@given(
    decodes=st.integers(1, 8), context=st.integers(1, 40), padding=st.integers(0, 2), step=st.integers(0, 60)
)
def test_further_iterations_are_an_arithmetic_progression(
    model: Model, pool: Pool, decodes: int, context: int, padding: int, step: int
) -> None:
    for on in (REAL, SLOW):
        cost = IterationCost(model, on, node(), pool)
        kv = decodes * context
        first, growth, valid = cost.run(batch(decodes=decodes, decode_kv=kv, padding=padding))
        step = min(step, valid - 1)
        later, _, _ = cost.run(batch(decodes=decodes, decode_kv=kv + step * decodes, padding=padding))
        assert later == pytest.approx(first + step * growth, rel=1e-12)


def test_the_progression_ends_where_arithmetic_overtakes_memory() -> None:
    # Per KV token a tiny decode does 32 FLOP over 16 bytes; queries and outputs are 32 bytes a decode. At
    # 1 FLOP a byte the lines cross at kv = 2: 32 kv = 16 kv + 32.
    even = device(flops={"bf16": 1e6}, bandwidth=1e6)
    cost = IterationCost(TINY, even, None, pool())
    _, growth, valid = cost.run(batch(decodes=1, decode_kv=1))
    assert valid == 2
    times = [cost.run(batch(decodes=1, decode_kv=kv))[0] for kv in (1, 2, 3, 4)]
    assert np.diff(times) == pytest.approx([growth, 2 * growth, 2 * growth])
    assert cost.run(batch(decodes=1, decode_kv=3))[2] == UNBOUNDED


def test_the_progression_ends_at_the_sliding_window() -> None:
    cost = IterationCost(TINY_WINDOW, device(), None, pool())
    _, growth, valid = cost.run(batch(decodes=2, decode_kv=2 * 10))
    assert valid == 7  # contexts of 10 to 16
    full, none, forever = cost.run(batch(decodes=2, decode_kv=2 * 16))
    assert (none, forever) == (0.0, UNBOUNDED)
    assert full == cost.run(batch(decodes=2, decode_kv=2 * 500))[0]
    assert growth > 0


def alike() -> list[IterationCost]:
    """As `TINY_MIXED`, once with a window in all layers and once in none."""
    shapes = [text(layers=4, sliding_window=window) for window in (16, None)]
    models = [Model(name="tiny", family="llama", text=shape) for shape in shapes]
    return [IterationCost(model, device(), None, pool()) for model in models]


def test_layers_without_the_window_go_on_reading() -> None:
    cost = IterationCost(TINY_MIXED, device(), None, pool())
    windowed, full = alike()
    for context in (10, 16, 17, 500):
        one = batch(decodes=2, decode_kv=2 * context)
        times = [each.run(one) for each in (cost, windowed, full)]
        for mixed, near, far in zip(*(each[:2] for each in times), strict=True):
            assert mixed == pytest.approx(0.75 * near + 0.25 * far)
    assert cost.run(batch(decodes=2, decode_kv=2 * 10))[2] == 7
    assert cost.run(batch(decodes=2, decode_kv=2 * 16))[2] == UNBOUNDED


@pytest.mark.parametrize("gpu", [device(), SLOW, REAL])
@settings(max_examples=60, deadline=None)
@given(
    q=st.integers(1, 600),
    history=st.integers(0, 40_000),
    decodes=st.integers(0, 40),
    context=st.integers(1, 5000),
    repeat=st.integers(2, 40),
)
def test_chunks_of_one_prompt_are_an_arithmetic_progression(
    gpu: Device, q: int, history: int, decodes: int, context: int, repeat: int
) -> None:
    cost = IterationCost(LLAMA_3_8B, gpu, None, pool())

    def chunk(number: int) -> Batch:
        return batch(
            (q, history + number * q, False), decodes=decodes, decode_kv=decodes * (context + number)
        )

    first = chunk(0)
    first.repeat = repeat
    seconds, growth, valid = cost.run(first)
    assert valid >= 1
    for number in {0, 1, repeat // 2, repeat - 1, min(valid, 10**6) - 1}:
        if number < valid:
            alone, _, _ = cost.run(chunk(number))
            assert seconds + number * growth == pytest.approx(alone, rel=1e-9)


def test_a_batch_with_chunks_or_images_does_not_repeat() -> None:
    cost = IterationCost(TINY_VISION, device(), None, pool(ALL_PHASES))
    assert cost.run(batch((5, 0, True), decodes=2, decode_kv=9))[1:] == (0.0, 1)
    assert cost.run(batch(patches=[64], decodes=2, decode_kv=9))[1:] == (0.0, 1)


def test_an_empty_batch_takes_the_hosts_time() -> None:
    cost = IterationCost(TINY_VISION, REAL, None, pool(ALL_PHASES))
    assert cost.run(batch())[0] == REAL.iteration_overhead


def test_counts_beyond_the_tables_are_worked_out() -> None:
    cost = IterationCost(TINY, REAL, None, pool())
    for tokens in ((1 << 17) - 1, 1 << 17, 200_000):
        big = batch((tokens, 0, True))
        assert cost.run(big)[0] == pytest.approx(evaluate(TINY, REAL, pool(), big))


def test_llama_3_8b_decodes_no_faster_than_its_weights_are_read() -> None:
    # 8.03e9 parameters in bf16 at 2.039 TB/s: 7.9 ms; the lookup table of 0.53e9 is not read.
    first, _, _ = IterationCost(LLAMA_3_8B, device(), None, pool()).run(batch(decodes=1, decode_kv=1))
    assert (8.03e9 - 0.53e9) * 2 / 2.039e12 < first < 1.01 * 8.03e9 * 2 / 2.039e12
    real, _, _ = IterationCost(LLAMA_3_8B, REAL, None, pool()).run(batch(decodes=1, decode_kv=1))
    assert real > 8.03e9 * 2 / 2.04e12


# Data ranks in lockstep

EXPERT_POOL = pool(tensor=2, data=2, expert=4)


@settings(max_examples=50, deadline=None)
@given(batches)
def test_lockstep_of_one_batch_is_run(one: Batch) -> None:
    cost = IterationCost(TINY_EXPERTS, REAL, node(), EXPERT_POOL)
    run = cost.run(one)
    for ranks in ([one], [one, None], [None, one]):
        first, *progression = cost.lockstep(ranks)
        assert first == pytest.approx(run[0], rel=1e-12)
        assert progression == [*run[1:]]


@settings(max_examples=50, deadline=None)
@given(batches, batches)
def test_lockstep_is_bounded_by_its_ranks(one: Batch, other: Batch) -> None:
    cost = IterationCost(TINY_EXPERTS, REAL, node(), EXPERT_POOL)
    both, alone = cost.lockstep([one, other])[0], [cost.run(rank)[0] for rank in (one, other)]
    assert max(alone) <= both * (1 + 1e-12)
    assert both <= sum(alone)
    assert both == pytest.approx(cost.lockstep([other, one])[0])


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 40)), min_size=2, max_size=2), st.integers(0, 500)
)
def test_lockstep_is_a_progression_while_the_slowest_rank_stays_slowest(
    ranks: list[tuple[int, int]], step: int
) -> None:
    bare = device()  # no overheads, so that attention tells
    cost = IterationCost(TINY_EXPERTS, bare, node(), EXPERT_POOL)
    first, growth, valid = cost.lockstep([batch(decodes=n, decode_kv=n * kv) for n, kv in ranks])
    step = min(step, valid - 1)
    later, _, _ = cost.lockstep([batch(decodes=n, decode_kv=n * (kv + step)) for n, kv in ranks])
    assert later == pytest.approx(first + step * growth, rel=1e-12)


def test_lockstep_ends_where_a_faster_growing_rank_becomes_the_slowest() -> None:
    cost = IterationCost(TINY_EXPERTS, device(), node(), EXPERT_POOL)
    long, many = batch(decodes=1, decode_kv=5000), batch(decodes=4, decode_kv=400)
    _, growth, valid = cost.lockstep([long, many])
    assert growth == cost.run(long)[1]
    assert 1000 < valid < 1600


def test_lockstep_needs_a_rank_with_work() -> None:
    with pytest.raises(ValueError, match="empty"):
        IterationCost(TINY_EXPERTS, REAL, node(), EXPERT_POOL).lockstep([None, None])


# Work


@pytest.mark.parametrize(("model", "pool"), SETUPS)
@settings(max_examples=15, deadline=None)
@given(batch=batches)
def test_work_is_the_sum_over_operators(model: Model, pool: Pool, batch: Batch) -> None:
    parallel = pool.parallel
    load, stages = loads_of(model, batch, padded=False), stage_parts(model, parallel.pipeline)
    flops, moved = IterationCost(model, REAL, node(), pool).work(columns(batch, model.text.sliding_window))
    single = pool.model_copy(update={"parallel": parallel.model_validate({})})
    expected = sum(runs(op, stages) * op.flops(load[op.over])[0] for op in of_device(model, REAL, single))
    assert flops[0] == pytest.approx(expected)
    if parallel.data == 1:
        on_devices = sum(
            runs(op, stages) * parallel.tensor * op.moved(load[op.over])[0]
            for op in of_device(model, REAL, pool)
        )
        assert moved[0] == pytest.approx(on_devices)


@settings(deadline=None)
@given(batch=batches, iterations=st.integers(1, 40))
def test_work_of_layers_with_and_without_a_window_adds_up(batch: Batch, iterations: int) -> None:
    row = columns(batch, iterations=iterations)
    mixed, near, far = (
        cost.work(row) for cost in (IterationCost(TINY_MIXED, device(), None, pool()), *alike())
    )
    for figure, windowed, full in zip(mixed, near, far, strict=True):
        assert figure == pytest.approx(0.75 * windowed + 0.25 * full)


@pytest.mark.parametrize("model", [TINY, TINY_WINDOW, TINY_MIXED, TINY_EXPERTS])
def test_work_of_a_repeated_decode_is_the_sum_over_its_iterations(model: Model) -> None:
    cost = IterationCost(model, REAL, None, pool())
    row = cost.work(columns(batch(decodes=3, decode_kv=30), iterations=20))
    steps = [cost.work(columns(batch(decodes=3, decode_kv=30 + 3 * j))) for j in range(20)]
    assert row[0] == pytest.approx(sum(flops for flops, _ in steps))
    assert row[1] == pytest.approx(sum(moved for _, moved in steps))


def test_work_of_a_run_of_chunks_is_the_sum_over_its_iterations() -> None:
    cost = IterationCost(TINY, device(), None, pool())
    chunks = [batch((7, 5 + 7 * n, False), decodes=3, decode_kv=30 + 3 * n) for n in range(4)]
    rows = [columns(chunk) for chunk in chunks]
    apart = cost.work({name: np.array([row[name] for row in rows]) for name in rows[0]})
    run = columns(chunks[0], iterations=4)
    together = cost.work({name: np.array([value]) for name, value in run.items()})
    assert [figure[0] for figure in together] == pytest.approx([figure.sum() for figure in apart])


def test_work_is_vectorised_over_rows() -> None:
    cost = IterationCost(TINY, REAL, None, pool())
    rows = [columns(batch(decodes=n, decode_kv=9 * n), iterations=n) for n in (1, 5)]
    joined = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    flops, moved = cost.work(joined)
    assert flops == pytest.approx(np.concatenate([cost.work(row)[0] for row in rows]))
    assert moved == pytest.approx(np.concatenate([cost.work(row)[1] for row in rows]))


def test_every_rank_reads_its_own_dense_weights_but_the_experts_are_read_once() -> None:
    one, two = (IterationCost(TINY_EXPERTS, REAL, None, pool(data=n)) for n in (1, 2))
    row = columns(batch(decodes=10_000, decode_kv=10_000))  # touches all experts
    experts = 8 * 2 * (3 * 8 * 16) * 2  # 8 in each of 2 layers, 3 matrices in bf16
    assert one.work(row)[1] - two.work(row)[1] == pytest.approx(experts / 2)


# Precision


def test_sixteen_bit_formats_stand_in_for_each_other() -> None:
    only_fp16 = device(flops={"fp16": 65e12})
    assert peak_flops(only_fp16, "bf16") == 65e12
    assert peak_flops(device(), "int4") == 312e12  # widened to bf16
    assert peak_flops(device(), "int8") == 624e12


def test_a_precision_that_the_device_lacks_is_an_error_at_once() -> None:
    with pytest.raises(SpecError) as error:
        IterationCost(
            TINY, device(), None, pool(precision={"compute": "fp8"}), field="pools.p", file="d.yaml"
        )
    assert str(error.value) == (
        "d.yaml: pools.p.precision.compute: A100-80GB has no fp8; use one of bf16, fp16, int8"
    )
