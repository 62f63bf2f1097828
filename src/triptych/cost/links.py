"""Transfers between instances: how wide the ways are, and how much is sent."""

from __future__ import annotations

from collections.abc import Sequence

from triptych.cost.operators import Formats
from triptych.spec.deployment import Parallelism, Pool, PoolLink
from triptych.spec.device import Device, Link, Node
from triptych.spec.model import Model


def port(device: Device, node: Node | None, parallel: Parallelism) -> Link:
    """What one instance can send to, and at the same time receive from, other instances.

    The ports of all its devices together, at the efficiency of the device's links: to the network, or
    `Device.link` where no node is declared. Instances are not assumed to share a node.
    """
    wire = node.network if node is not None else device.link
    bandwidth = wire.bandwidth * device.efficiency.network * parallel.devices
    return Link(name=wire.name, bandwidth=bandwidth, latency=wire.latency, source=wire.source)


def between(
    links: Sequence[PoolLink], source: str, target: str, source_port: Link, target_port: Link
) -> tuple[Link, Link]:
    """The ports through which a transfer leaves an instance of one pool and enters one of another.

    A declared link replaces both. A transfer takes the larger latency, and the smaller of the shares that
    it gets of the two bandwidths.

    Args:
        links: of the deployment.
        source: name of the pool that sends.
        target: name of the pool that receives.
        source_port: of the sender's instances.
        target_port: of the receiver's instances.
    """
    for link in links:
        if (link.source, link.target) == (source, target):
            declared = Link(name=f"{source} -> {target}", bandwidth=link.bandwidth, latency=link.latency)
            return declared, declared
    return source_port, target_port


def kv_transfer_bytes(model: Model, pool: Pool, tokens: int) -> float:
    """Bytes of the keys and values of so many tokens in the pool's KV precision; each is sent once."""
    return model.kv_bytes_per_token(pool.precision.kv) * tokens


def embedding_transfer_bytes(model: Model, pool: Pool, tokens: int) -> float:
    """Bytes of the image embeddings of so many image tokens, deepstack features included."""
    return model.embedding_bytes_per_token(Formats.of(pool.precision).wide) * tokens
