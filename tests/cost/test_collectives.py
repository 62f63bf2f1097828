"""Collectives: bandwidth terms, latency terms, and the wires a group spans."""

from __future__ import annotations

import numpy as np
import pytest

from triptych.cost.collectives import Collective, Wires, exchanges
from triptych.spec.device import Link

from .shapes import device, node, pool

NVLINK, PCIE, NETWORK = 300e9, 25e9, 50e9  # as in `device()` and `node()`
WITH_LATENCY = device(link=Link(name="NVLink", bandwidth=NVLINK, latency=1e-6))


def seconds(collective: Collective, message: float) -> float:
    return float(collective.seconds(np.array(message)))


@pytest.mark.parametrize("members", [2, 4, 8])
def test_all_reduce_moves_twice_the_message_but_the_own_share(members: int) -> None:
    reduce = Wires(device(), node()).all_reduce(members)
    assert seconds(reduce, 1e9) == pytest.approx(2 * (members - 1) / members * 1e9 / NVLINK)


def test_all_reduce_is_a_reduce_scatter_and_an_all_gather() -> None:
    wires = Wires(WITH_LATENCY, node("pairs"))
    for members in (2, 4, 16):
        apart = wires.reduce_scatter(members) + wires.all_gather(members)
        assert wires.all_reduce(members) == apart


def test_latency_grows_with_the_logarithm_on_a_switch_and_linearly_on_shared_wires() -> None:
    switch = Wires(WITH_LATENCY, node())
    assert seconds(switch.all_reduce(2), 0) == pytest.approx(2e-6)
    assert seconds(switch.all_reduce(8), 0) == pytest.approx(6e-6)
    ring = Wires(WITH_LATENCY, node("pcie"))
    assert seconds(ring.all_reduce(8), 0) == pytest.approx(2 * 7 * 10e-6)


def test_a_pair_has_its_bridge_and_more_go_over_pcie() -> None:
    wires = Wires(device(), node("pairs"))
    assert seconds(wires.all_gather(2), 1e9) == pytest.approx(1 / 2 * 1e9 / NVLINK)
    # Between two pairs each device exchanges its half first over PCIe.
    assert wires.all_gather(4).per_byte == pytest.approx(1 / 2 / NVLINK + 1 / 2 * 1 / 2 / PCIE)


def test_beyond_a_node_shares_go_over_the_network() -> None:
    wires = Wires(device(), node())
    assert wires.all_gather(16).per_byte == pytest.approx(7 / 8 / NVLINK + 1 / 8 * 1 / 2 / NETWORK)
    assert wires.all_gather(2, stride=8).per_byte == pytest.approx(1 / 2 / NETWORK)  # one in each node
    assert wires.all_gather(2, stride=4).per_byte == pytest.approx(1 / 2 / NVLINK)


def test_all_to_all_is_as_slow_as_its_slowest_wire() -> None:
    wires = Wires(device(), node())
    assert wires.all_to_all(8).per_byte == pytest.approx(7 / 8 / NVLINK)
    assert wires.all_to_all(16).per_byte == pytest.approx(8 / 16 / NETWORK)


def test_send_takes_the_wire_between_the_two() -> None:
    pairs = Wires(device(), node("pairs"))
    links = [pairs.send(0, 1), pairs.send(1, 2), pairs.send(7, 8)]
    assert [1 / link.per_byte for link in links] == pytest.approx([NVLINK, PCIE, NETWORK])


def test_without_a_node_all_devices_are_connected_by_the_devices_link() -> None:
    assert Wires(device(), None).all_gather(64).per_byte == pytest.approx(63 / 64 / NVLINK)


def test_efficiency_divides_bandwidth() -> None:
    half = device().efficiency.model_copy(update={"network": 0.5})
    slow = Wires(device(efficiency=half), node()).all_reduce(2)
    assert seconds(slow, 1e9) == pytest.approx(2 * 1e9 / NVLINK)


def test_one_device_exchanges_nothing() -> None:
    wires = exchanges(Wires(device(), node()), pool().parallel)
    assert wires.tensor_reduce is wires.tensor_gather is wires.expert_dispatch is None
    assert wires.stage_sends == ()


def test_stages_send_along_and_over_the_network_where_a_node_ends() -> None:
    sends = exchanges(Wires(device(), node()), pool(tensor=4, pipeline=4).parallel).stage_sends
    assert [1 / send.per_byte for send in sends] == pytest.approx([NVLINK, NETWORK, NVLINK])
