"""Collectives: how long the devices of one instance take to exchange what they computed.

Every collective is linear in the message, `fixed + bytes * per_byte` (the alpha-beta model). Bandwidth
terms are the lower bounds that ring and halving-doubling algorithms reach, an all-reduce of M bytes over n
devices being a reduce-scatter and an all-gather that each move (n-1)/n M; latency terms are n-1 steps a
round on shared wires (ring) and log2 n where any two devices are connected (halving, doubling).
Source: Thakur, Rabenseifner, Gropp, "Optimization of Collective Communication Operations in MPICH", 2005.

A group that spans several kinds of wire works level by level: first among the devices of a pair or node,
then, each device with its share, between them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from triptych.cost.loads import Floats
from triptych.spec.deployment import Parallelism
from triptych.spec.device import Device, Link, Node


@dataclass(frozen=True, slots=True)
class Collective:
    """One exchange: seconds = fixed + bytes x per_byte."""

    fixed: float
    per_byte: float
    name: str = ""
    """all-reduce, all-gather, ...; empty: a part of one."""
    members: int = 0

    def seconds(self, message: Floats) -> Floats:
        """Seconds for messages of so many bytes."""
        return self.fixed + message * self.per_byte

    def __add__(self, other: Collective) -> Collective:
        return Collective(self.fixed + other.fixed, self.per_byte + other.per_byte)


NOTHING = Collective(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class _Level:
    """A ring or switch: how many members a group has on it, and how far its reach is."""

    members: int
    reach: int
    """Devices of the group that this level and those below it connect."""
    link: Link
    any_to_any: bool

    @property
    def steps(self) -> int:
        return math.ceil(math.log2(self.members)) if self.any_to_any else self.members - 1


class Wires:
    """The wires between the devices of one instance.

    Devices are numbered as engines number ranks: tensor innermost, then pipeline, then data; an instance
    begins at the first device of a node.

    Args:
        device: whose link and network efficiency count.
        node: how devices are connected; None: any two by `device.link`, however many.
    """

    def __init__(self, device: Device, node: Node | None) -> None:
        self._device = device
        self._node = node

    def all_reduce(self, members: int, stride: int = 1) -> Collective:
        """Sums `message` bytes, which every member holds, and leaves the sum with every member."""
        half = self.all_gather(members, stride)
        return half + half

    def all_gather(self, members: int, stride: int = 1) -> Collective:
        """Leaves `message` bytes with every member, each having held an equal share of them."""
        total, share = NOTHING, 1.0
        for level in self._levels(members, stride):
            beta = share * (level.members - 1) / level.members / self._bandwidth(level.link)
            total += Collective(level.steps * level.link.latency, beta)
            share /= level.members
        return total

    def reduce_scatter(self, members: int, stride: int = 1) -> Collective:
        """Sums `message` bytes, which every member holds, and leaves a share of the sum with each."""
        return self.all_gather(members, stride)

    def all_to_all(self, members: int, stride: int = 1) -> Collective:
        """Every member sends `message` bytes in all, an equal part to each member.

        Parts for near and far members travel at the same time: the slower kind of wire decides.
        """
        fixed, per_byte, within = 0.0, 0.0, 1
        for level in self._levels(members, stride):
            reach = min(level.reach, members)
            beta = (reach - within) / members / self._bandwidth(level.link)
            fixed, per_byte, within = fixed + level.link.latency, max(per_byte, beta), reach
        return Collective(fixed, per_byte)

    def send(self, source: int, target: int) -> Collective:
        """One device sends `message` bytes to another (device numbers within the instance)."""
        link = self._link_between(source, target)
        return Collective(link.latency, 1 / self._bandwidth(link))

    def _bandwidth(self, link: Link) -> float:
        return link.bandwidth * self._device.efficiency.network

    def _link_between(self, source: int, target: int) -> Link:
        node = self._node
        if node is None:
            return self._device.link
        if source // node.devices != target // node.devices:
            return node.network
        if node.topology == "all-to-all":
            return self._device.link
        paired = node.topology == "pairs" and source // 2 == target // 2
        return self._device.link if paired else node.pcie

    def _levels(self, members: int, stride: int) -> list[_Level]:
        """From the nearest wires out; levels on which a group has a single member are left out."""
        node = self._node
        unlimited = members * stride
        if node is None:
            kinds = [(unlimited, self._device.link, True)]
        elif node.topology == "all-to-all":
            kinds = [(node.devices, self._device.link, True), (unlimited, node.network, False)]
        elif node.topology == "pairs":
            near, far = (2, self._device.link, True), (node.devices, node.pcie, False)
            kinds = [near, far, (unlimited, node.network, False)]
        else:
            kinds = [(node.devices, node.pcie, False), (unlimited, node.network, False)]
        levels, reach = [], 1
        for devices, link, any_to_any in kinds:
            here = max(reach, min(members, devices // stride))
            count = math.ceil(here / reach)
            if count > 1:
                levels.append(_Level(count, here, link, any_to_any))
                reach = here
        return levels


@dataclass(frozen=True, slots=True)
class Exchanges:
    """The collectives of one instance, by what they are for; None where a group has one member."""

    tensor_reduce: Collective | None
    """Sum of the partial results of the tensor shards."""
    tensor_gather: Collective | None
    expert_dispatch: Collective | None
    """Tokens to the devices that hold their experts, where data ranks share the experts."""
    expert_combine: Collective | None
    stage_sends: tuple[Collective, ...]
    """Activations from each pipeline stage to the next."""


def exchanges(wires: Wires, parallel: Parallelism) -> Exchanges:
    """The collectives that a parallelism needs.

    Data ranks share the experts by all-gather and reduce-scatter of all tokens where every device holds a
    shard of every expert (`expert: 1`), by all-to-all where experts are dealt to groups; then each of
    the tensor ranks sends its share of its data rank's tokens.
    """
    tensor, data = parallel.tensor, parallel.data
    sharded = tensor > 1
    dispatch = combine = None
    if data > 1 and parallel.expert == 1:
        dispatch = _named(wires.all_gather(data, tensor), "all-gather", data)
        combine = _named(wires.reduce_scatter(data, tensor), "reduce-scatter", data)
    elif data > 1:
        dispatch = combine = _named(wires.all_to_all(tensor * data), "all-to-all", tensor * data)
    return Exchanges(
        tensor_reduce=_named(wires.all_reduce(tensor), "all-reduce", tensor) if sharded else None,
        tensor_gather=_named(wires.all_gather(tensor), "all-gather", tensor) if sharded else None,
        expert_dispatch=dispatch,
        expert_combine=combine,
        stage_sends=tuple(
            wires.send(stage * tensor, (stage + 1) * tensor) for stage in range(parallel.pipeline - 1)
        ),
    )


def _named(collective: Collective, name: str, members: int) -> Collective:
    """What a table of measured collectives calls it."""
    return replace(collective, name=name, members=members)
