"""How instances and pools were used: batch sizes, busy time, KV, MFU, MBU, energy, dollars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from triptych.record.logs import InstanceInfo, LaneLog
from triptych.record.power import active_seconds, energy
from triptych.record.summary import InstanceUsage, PoolUsage, Usage


class _Tally(NamedTuple):
    """Sums over the batches of a lane, an instance or a pool."""

    batches: float = 0
    iterations: float = 0
    members: float = 0
    tokens: float = 0
    busy: float = 0
    """Instance-seconds."""
    kv_seconds: float = 0
    """KV blocks in use x lane-seconds."""
    kv_capacity_seconds: float = 0
    """KV blocks there are x busy lane-seconds."""
    kv_peak: float = 0
    """Sum of the peaks of the lanes, or of the instances where lanes share blocks."""
    flops: float = 0
    peak_flops: float = 0
    """That could have been done in the busy time."""
    moved: float = 0
    peak_moved: float = 0
    energy: float = 0


def usages(
    instances: Sequence[InstanceInfo],
    lanes: Iterable[LaneLog],
    horizon: float,
    prompt: float = 0.0,
    output: float = 0.0,
) -> tuple[tuple[InstanceUsage, ...], tuple[PoolUsage, ...]]:
    """The use of each instance and of each pool over `horizon` seconds.

    Args:
        instances: of the run, numbered from 0.
        lanes: what they did.
        horizon: seconds.
        prompt: mean prompt tokens of the requests, images included.
        output: mean tokens that they get.
    """
    logs: list[list[LaneLog]] = [[] for _ in instances]
    for lane in lanes:
        logs[lane.instance].append(lane)
    tallies = [_of_instance(info, log, horizon) for info, log in zip(instances, logs, strict=True)]
    peaks = [_kv_peak_share(info, log) for info, log in zip(instances, logs, strict=True)]
    each = tuple(
        InstanceUsage(info.id, info.pool, _usage([info], tally, peak, horizon))
        for info, tally, peak in zip(instances, tallies, peaks, strict=True)
    )
    pools: dict[str, list[int]] = {}
    for position, info in enumerate(instances):
        pools.setdefault(info.pool, []).append(position)
    return each, tuple(
        PoolUsage(
            pool,
            instances[members[0]].phases,
            instances[members[0]].device,
            len(members),
            _usage(
                [instances[i] for i in members],
                _sum([tallies[i] for i in members]),
                max((peak for i in members if (peak := peaks[i]) is not None), default=None),
                horizon,
            ),
            **_memory(instances[members[0]], prompt, output),
        )
        for pool, members in pools.items()
    )


def _of_lane(info: InstanceInfo, lane: LaneLog) -> _Tally:
    # Products are summed without BLAS, whose threads keep spinning on the other cores when it is done.
    count, seconds = lane["iterations"], lane.seconds
    busy = float(seconds.sum())
    return _Tally(
        batches=len(lane),
        iterations=float(count.sum()),
        members=float((count * (lane["decodes"] + lane["prefilling"] + lane["images"])).sum()),
        tokens=float((count * (lane["prefill_tokens"] + lane["decodes"])).sum()),
        busy=busy / info.lanes,
        kv_seconds=_kv_seconds(lane),
        kv_capacity_seconds=info.kv_blocks * busy,
        kv_peak=float(lane["kv_blocks_last"].max(initial=0)),
        flops=float(lane["flops"].sum()),
        peak_flops=info.peak_flops * busy / info.lanes,
        moved=float(lane["bytes"].sum()),
        peak_moved=info.bandwidth * busy / info.lanes,
    )


def _kv_seconds(lane: LaneLog) -> float:
    """KV blocks in use x seconds, summed over the iterations of all rows.

    In a row of k iterations both rise linearly, so that beside the product of their means there is a
    covariance: the sum over i of (b_i - mean b)(d_i - mean d) is (b_last - b_first) growth k (k + 1) / 12.
    """
    count, first, last = lane["iterations"], lane["kv_blocks"], lane["kv_blocks_last"]
    together = (last - first) * lane["growth"] * count * (count + 1) / 12
    return float(((first + last) / 2 * lane.seconds + together).sum())


def _of_instance(info: InstanceInfo, log: list[LaneLog], horizon: float) -> _Tally:
    active = sum(
        active_seconds(
            lane["flops"],
            lane["bytes"],
            lane.seconds,
            peak_flops=info.peak_flops,
            bandwidth=info.bandwidth,
        )
        for lane in log
    )
    joules = energy(info.idle_watts, info.peak_watts, horizon, active)
    lanes = [_of_lane(info, lane) for lane in log]
    tally = _sum(lanes)._replace(energy=joules)
    return tally._replace(kv_peak=max(lane.kv_peak for lane in lanes)) if info.kv_shared and lanes else tally


def _sum(tallies: list[_Tally]) -> _Tally:
    return _Tally(*map(sum, zip(*tallies, strict=True))) if tallies else _Tally()


def _kv_peak_share(info: InstanceInfo, log: list[LaneLog]) -> float | None:
    """Of the lane that came closest to its limit."""
    if not info.kv_blocks:
        return None
    return max((float(lane["kv_blocks_last"].max(initial=0)) for lane in log), default=0.0) / info.kv_blocks


def _usage(infos: list[InstanceInfo], tally: _Tally, kv_peak: float | None, horizon: float) -> Usage:
    time = horizon * len(infos)
    memory = sum(info.memory_bytes for info in infos)
    # Instances of a pool are equal, so that the first one's block size is that of all.
    held = sum(info.weights_bytes + info.reserved_bytes for info in infos)
    held += tally.kv_peak * infos[0].kv_block_bytes
    dollars_per_hour = sum(info.dollars_per_hour for info in infos)
    return Usage(
        devices=sum(info.devices for info in infos),
        batches=int(tally.batches),
        iterations=int(tally.iterations),
        mean_batch=ratio(tally.members, tally.iterations),
        tokens_per_iteration=ratio(tally.tokens, tally.iterations),
        busy_seconds=tally.busy,
        idle_seconds=max(time - tally.busy, 0.0),
        busy_share=ratio(tally.busy, time) or 0.0,
        kv_mean_share=ratio(tally.kv_seconds, tally.kv_capacity_seconds),
        kv_peak_share=kv_peak,
        memory_peak_share=ratio(held, memory),
        mfu=ratio(tally.flops, tally.peak_flops),
        mbu=ratio(tally.moved, tally.peak_moved),
        energy_joules=tally.energy,
        dollars=dollars_per_hour * horizon / 3600,
        dollars_per_hour=dollars_per_hour,
    )


def ratio(part: float, whole: float) -> float | None:
    """Part of whole; None of nothing."""
    return part / whole if whole > 0 else None


def _memory(info: InstanceInfo, prompt: float, output: float) -> dict[str, Any]:
    """What one instance has memory for: the fields of `PoolUsage`."""
    blocks = info.kv_blocks * (1 if info.kv_shared else info.lanes)
    tokens = blocks * info.block_size
    each = prompt + (output if "decode" in info.phases else 0.0)
    return {
        "weights_bytes": info.weights_bytes,
        "kv_bytes": info.kv_blocks * info.kv_block_bytes * (1 if info.kv_shared else info.lanes),
        "kv_tokens": tokens,
        "requests_that_fit": tokens / each if tokens and each else None,
    }
