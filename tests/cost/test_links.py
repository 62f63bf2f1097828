"""Transfers between pools."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from triptych.cost.links import (
    between,
    embedding_transfer_bytes,
    kv_transfer_bytes,
    port,
)
from triptych.spec.deployment import Pool, PoolLink
from triptych.spec.device import Device, Node

from .shapes import LLAMA_3_8B, REAL, TINY, TINY_VISION, device, node, pool


@dataclass(frozen=True)
class End:
    name: str
    pool: Pool
    device: Device
    node: Node | None = None


def test_a_port_is_all_the_network_ports_of_an_instance() -> None:
    four = port(End("p", pool(tensor=2, pipeline=2), device(), node()))
    assert (four.bandwidth, four.latency) == (4 * 50e9, 20e-6)
    assert port(End("p", pool(), REAL, node())).bandwidth == 0.75 * 50e9


def test_without_a_node_the_devices_link_is_the_port() -> None:
    assert port(End("p", pool(tensor=2), device())).bandwidth == 2 * 300e9


def test_each_end_of_a_transfer_has_its_own_port() -> None:
    wide, narrow = End("prefill", pool(), device()), End("decode", pool(), device(), node())
    assert between((), wide, narrow) == (port(wide), port(narrow))


def test_a_declared_link_replaces_the_ports_in_its_direction() -> None:
    links = [PoolLink.parse({"from": "prefill", "to": "decode", "bandwidth": "1 GB/s", "latency": "1 ms"})]
    prefill, decode = End("prefill", pool(), device()), End("decode", pool(), device())
    for end in between(links, prefill, decode):
        assert (end.bandwidth, end.latency) == (1e9, pytest.approx(1e-3))
    assert between(links, decode, prefill) == (port(decode), port(prefill))


def test_a_declared_link_is_of_each_device_as_a_data_sheet_has_it() -> None:
    """Who writes down the device's own link gets what a pool has without nodes."""
    sheet = device()
    links = [PoolLink.parse({"from": "prefill", "to": "decode", "bandwidth": sheet.link.bandwidth})]
    prefill, decode = End("prefill", pool(tensor=4), sheet), End("decode", pool(tensor=2, data=4), sheet)
    out, into = between(links, prefill, decode)
    assert (out.bandwidth, into.bandwidth) == (4 * 300e9, 8 * 300e9)
    assert (out.bandwidth, into.bandwidth) == (port(prefill).bandwidth, port(decode).bandwidth)


def test_sizes_of_what_is_sent() -> None:
    assert kv_transfer_bytes(LLAMA_3_8B, pool(), 1000) == 1000 * 131_072
    assert kv_transfer_bytes(LLAMA_3_8B, pool(precision={"kv": "fp8"}), 1000) == 1000 * 65_536
    assert kv_transfer_bytes(LLAMA_3_8B, pool(tensor=16), 1) == 131_072  # copies are not sent
    assert embedding_transfer_bytes(TINY_VISION, pool(["encode"]), 100) == 100 * 8 * 2
    assert embedding_transfer_bytes(TINY, pool(), 100) == 0
    assert TINY_VISION.vision is not None
    deep = TINY_VISION.vision.model_copy(update={"deepstack_blocks": (0, 1, 2)})
    deepstack = TINY_VISION.model_copy(update={"vision": deep})
    assert embedding_transfer_bytes(deepstack, pool(["encode"]), 100) == 4 * 100 * 8 * 2
