"""Transfers between instances: how wide the ways are, and how much is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from triptych.cost.operators import Formats
from triptych.spec.deployment import Pool, PoolLink
from triptych.spec.device import Device, Link, Node
from triptych.spec.model import Model


class End(Protocol):
    """A pool that sends or receives, with the devices and nodes that its names stand for."""

    @property
    def name(self) -> str: ...
    @property
    def pool(self) -> Pool: ...
    @property
    def device(self) -> Device: ...
    @property
    def node(self) -> Node | None: ...


def port(end: End) -> Link:
    """What one instance can send to, and at the same time receive from, other instances.

    The ports of all its devices together, at the efficiency of the device's links: to the network, or
    `Device.link` where no node is declared. Instances are not assumed to share a node.
    """
    wire = end.node.network if end.node is not None else end.device.link
    return _together(wire, end, wire.bandwidth * end.device.efficiency.network)


def between(links: Sequence[PoolLink], source: End, target: End) -> tuple[Link, Link]:
    """The ports through which a transfer leaves an instance of one pool and enters one of another.

    A declared link replaces those of all devices at both ends, and is taken as reached. A transfer takes the
    larger latency, and the smaller of the shares that it gets of the two bandwidths.
    """
    for link in links:
        if (link.source, link.target) == (source.name, target.name):
            name = f"{source.name} -> {target.name}"
            wire = Link(name=name, bandwidth=link.bandwidth, latency=link.latency)
            return _together(wire, source, wire.bandwidth), _together(wire, target, wire.bandwidth)
    return port(source), port(target)


def _together(wire: Link, end: End, bandwidth: float) -> Link:
    """The wires of all devices of an instance, each with this bandwidth."""
    return wire.model_copy(update={"bandwidth": bandwidth * end.pool.parallel.devices})


def kv_transfer_bytes(model: Model, pool: Pool, tokens: int) -> float:
    """Bytes of the keys and values of so many tokens in the pool's KV precision; each is sent once."""
    return model.kv_bytes_per_token(pool.precision.kv) * tokens


def embedding_transfer_bytes(model: Model, pool: Pool, tokens: int) -> float:
    """Bytes of the image embeddings of so many image tokens, deepstack features included."""
    return model.embedding_bytes_per_token(Formats.of(pool.precision).wide) * tokens
