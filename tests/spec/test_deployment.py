"""What a deployment says where it says little, and what it may not say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from triptych.spec.base import SpecError
from triptych.spec.deployment import Deployment, Parallelism, Pool
from triptych.spec.yaml import parse_yaml

EXAMPLES = sorted((Path(__file__).parents[2] / "examples/deployments").glob("*.yaml"))


def pool(*phases: str, **changes: Any) -> dict[str, Any]:
    policy = "encode" if phases == ("encode",) else "sarathi"
    return {"phases": list(phases), "device": "H100", "scheduler": {"policy": policy}, **changes}


def split(**changes: Any) -> dict[str, Any]:
    pools = {"e": pool("encode"), "p": pool("prefill"), "d": pool("decode")}
    return {"model": "Qwen2.5-VL-7B", "pools": pools, **changes}


def scheduler(policy: str, **knobs: Any) -> dict[str, Any]:
    return {"scheduler": {"policy": policy, **knobs}}


def refusal(data: dict[str, Any]) -> str:
    with pytest.raises(SpecError) as caught:
        Deployment.parse(data)
    return str(caught.value)


def test_little_has_to_be_said() -> None:
    declared = Pool.parse(pool("prefill", "decode"))
    assert (declared.instances, declared.block_size, declared.memory_fraction) == (1, 16, 0.9)
    assert declared.parallel.devices == 1
    assert {declared.precision.weights, declared.precision.kv, declared.precision.compute} == {"bf16"}
    assert not declared.prefix_cache


def test_phases_come_in_the_order_of_a_request() -> None:
    assert Pool.parse(pool("decode", "encode", "prefill")).phases == ("encode", "prefill", "decode")


def test_an_instance_takes_tensor_x_pipeline_x_data_devices() -> None:
    assert Parallelism(tensor=2, pipeline=3, data=4, expert=8).devices == 24


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_comes_back_from_its_own_yaml(path: Path) -> None:
    declared = Deployment.load(path)
    assert Deployment.parse(parse_yaml(declared.to_yaml())) == declared


def test_a_saved_declaration_holds_every_field_of_every_pool() -> None:
    again = parse_yaml(Deployment.parse(split()).to_yaml())
    assert again.keys() == Deployment.model_fields.keys()
    for declared in again["pools"].values():
        assert declared.keys() == Pool.model_fields.keys()
        assert declared["kv_blocks"] is None


def test_links_come_back_under_the_names_they_are_written_with() -> None:
    declared = Deployment.parse(split(links=[{"from": "p", "to": "d", "bandwidth": "25 GB/s"}]))
    again = parse_yaml(declared.to_yaml())
    assert again["links"] == [{"from": "p", "to": "d", "bandwidth": 25e9, "latency": 0.0}]


@pytest.mark.parametrize("policy", ["static", "orca", "vllm", "sarathi", "unified"])
@pytest.mark.parametrize("phases", [("prefill",), ("decode",), ("prefill", "decode"), ("encode", "prefill")])
def test_any_text_scheduler_runs_any_phases_but_encode_alone(policy: str, phases: tuple[str, ...]) -> None:
    assert Pool.parse(pool(*phases, **scheduler(policy))).scheduler.policy == policy


@pytest.mark.parametrize(
    ("policy", "knobs"),
    [
        ("static", {"max_batch"}),
        ("orca", {"max_batch"}),
        ("vllm", {"max_batch", "max_tokens", "watermark"}),
        ("sarathi", {"max_batch", "max_tokens", "watermark"}),
        ("unified", {"max_batch", "max_tokens"}),
    ],
)
def test_a_policy_takes_its_own_knobs_and_no_others(policy: str, knobs: set[str]) -> None:
    values = {"max_batch": 8, "max_tokens": 512, "watermark": 0.05}
    for knob, value in values.items():
        data = {"model": "m", "pools": {"x": pool("prefill", "decode", **scheduler(policy, **{knob: value}))}}
        if knob in knobs:
            assert getattr(Deployment.parse(data).pools["x"].scheduler, knob) == value
        else:
            says = f"pools.x.scheduler: the {policy} scheduler has no {knob}; remove it"
            assert refusal(data) == says


@pytest.mark.parametrize(
    ("setting", "value", "phases", "users"),
    [
        ("prefix_cache", True, ("decode",), "prefill"),
        ("prefix_cache", True, ("encode",), "prefill"),
        ("embedding_cache", "1 GB", ("decode",), "encode and prefill"),
        ("kv_blocks", 100, ("encode",), "prefill and decode"),
    ],
)
def test_a_setting_that_the_phases_do_not_use_is_refused(
    setting: str, value: object, phases: tuple[str, ...], users: str
) -> None:
    data = split()
    data["pools"]["x"] = pool(*phases, **{setting: value})
    assert refusal(data) == f"pools.x: {setting}: a pool without {users} has no use for it; remove it"


def test_patches_are_limited_only_where_images_are_encoded() -> None:
    limited = scheduler("sarathi", max_patches=1024)
    assert Pool.parse(pool("encode", "prefill", **limited)).scheduler.max_patches == 1024
    data = split()
    data["pools"]["p"] = pool("prefill", **limited)
    assert (
        refusal(data) == "pools.p: scheduler.max_patches: a pool without encode has no use for it; remove it"
    )


class TestPhases:
    def test_text_needs_no_encode(self) -> None:
        data = split()
        del data["pools"]["e"]
        assert Deployment.parse(data).pools.keys() == {"p", "d"}

    @pytest.mark.parametrize(("name", "phase"), [("p", "prefill"), ("d", "decode")])
    def test_prefill_and_decode_must_run_somewhere(self, name: str, phase: str) -> None:
        data = split()
        del data["pools"][name]
        assert refusal(data) == f"pools: none runs {phase}; add {phase} to the phases of one"

    def test_several_pools_may_run_a_phase(self) -> None:
        data = split()
        data["pools"]["all"] = pool("encode", "prefill", "decode")
        assert len(Deployment.parse(data).pools) == 4


LINK = {"from": "p", "to": "d", "bandwidth": 1e9}


class TestLinks:
    def test_each_way_once(self) -> None:
        back = {**LINK, "from": "d", "to": "p"}
        assert len(Deployment.parse(split(links=[LINK, back])).links) == 2
        assert refusal(split(links=[LINK, LINK])) == "links: p -> d is given twice; remove one"

    def test_between_pools_that_exist(self) -> None:
        says = "links: 'q' is no pool; use one of e, p, d"
        assert refusal(split(links=[{**LINK, "to": "q"}])) == says

    def test_a_close_name_is_offered(self) -> None:
        pools = {"prefill": pool("prefill"), "decode": pool("decode")}
        link = {"from": "prefil", "to": "decode", "bandwidth": 1e9}
        says = "links: 'prefil' is no pool; did you mean 'prefill'?"
        assert refusal({"model": "m", "pools": pools, "links": [link]}) == says
