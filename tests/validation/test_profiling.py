"""Before a validation every pool has a profile: one that is known, or one that is measured now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from triptych import catalog
from triptych.profiles import Profile, ProfileInfo, library, machine, profile_of, write_profile
from triptych.profiles.shapes import shape_of
from triptych.spec.base import SpecError
from triptych.spec.deployment import Deployment
from triptych.spec.workload import WorkloadSpec
from triptych.validation import profiling
from triptych.validation.profiling import ProfileOnce, Sizes, measure_now, sizes_of
from triptych.validation.server import Interrupted
from triptych.workload import Requests, generate

SCHEDULER = {"policy": "sarathi", "max_batch": 4, "max_tokens": 64}
POOL: dict[str, Any] = {"phases": ["prefill", "decode"], "device": "CPU", "scheduler": SCHEDULER}
DEPLOYMENT = Deployment.parse({"model": "random:OPT-125M", "pools": {"all": POOL}})
HERE = {"processor": "Made-Up 9000", "cores": "4", "threads": "4"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine, and its user's own folder of profiles."""
    monkeypatch.setattr(machine, "processor", lambda: "Made-Up 9000")
    monkeypatch.setattr(machine, "cores", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv(library.FOLDER, str(tmp_path))
    return tmp_path


def known(clocks: dict[str, str] = HERE, shape: dict[str, int] | None = None, **columns: Any) -> Profile:
    info = ProfileInfo(
        name="",
        device="CPU",
        source="a test",
        clocks=clocks,
        versions=machine.libraries(),
        shapes={"opt-125m": shape or shape_of(catalog.model("OPT-125M"))},
    )
    rows = {
        "model": "opt-125m",
        "operator": ["decode attention"],
        "units": 1,
        "decode_kv": 256,
        "seconds": 1e-3,
        **columns,
    }
    return profile_of(info, rows)


def named(said: list[str] | None = None, **more: Any) -> tuple[str, ...]:
    once = ProfileOnce((said if said is not None else []).append, **more)
    return once(DEPLOYMENT, requests(), go_on).pools["all"].profile


def go_on(*so_far: float) -> bool:
    return True


def requests(prompt: int = 100, output: int = 20) -> Requests:
    return generate(
        WorkloadSpec.parse(
            {
                "requests": 3,
                "arrivals": {"kind": "poisson", "rate": 1},
                "prompt": {"kind": "fixed", "tokens": prompt},
                "output": {"kind": "fixed", "tokens": output},
            }
        )
    )


def test_one_of_the_library_is_taken(here: Path) -> None:
    write_profile(known(), here / "mine.parquet")
    said: list[str] = []
    assert named(said) == ("mine",)
    assert said == ["predictions rest on the profile mine"]


@pytest.mark.parametrize(
    "other",
    [
        {"clocks": {**HERE, "processor": "Made-Up 9001"}},
        {"clocks": {**HERE, "cores": "64", "threads": "64"}},
        {"clocks": {"processor": "Made-Up 9000", "threads": "64"}},
        {"precision": "fp32"},
        {"tensor": 2},
        {"shape": {"hidden": 640}},
    ],
    ids=["processor", "cores", "threads", "precision", "tensor", "shape"],
)
def test_one_of_another_machine_format_or_shape_is_not(other: dict[str, Any], here: Path) -> None:
    write_profile(known(**other), here / "mine.parquet")
    assert named() == ()


def test_a_pool_that_names_one_keeps_it(here: Path) -> None:
    write_profile(known(), here / "mine.parquet")
    own = Deployment.parse({"model": "OPT-125M", "pools": {"all": {**POOL, "profile": "other"}}})
    assert ProfileOnce(print)(own, requests(), go_on).pools["all"].profile == ("other",)


def test_without_any_it_is_measured_as_the_pool_needs_it(here: Path) -> None:
    asked: dict[str, Any] = {}

    def measure(model: str, go_on: Any, **options: Any) -> Path:
        asked.update(options, model=model)
        assert go_on(1, 2, 3.0)
        return here / "new.parquet"

    said: list[str] = []
    assert named(said, measure=measure) == (str(here / "new.parquet"),)
    assert asked == {
        "model": "OPT-125M",
        "device": "cpu",
        "tp": (1,),
        "precision": "bf16",
        "out": here,
        "quick": True,
        "model_alone": True,
        "minutes": 1 / 3,
        "max_tokens": 64,
        "max_batch": 4,
        "max_context": 256,
        "max_patches": None,
    }
    assert said[0].startswith("measuring opt-125m on this machine, once, in about half a minute; it is")


def test_one_that_does_not_go_as_far_as_the_requests_is_measured_anew_and_loses_nothing(here: Path) -> None:
    write_profile(known(decode_kv=512), here / "mine.parquet")
    asked: dict[str, Any] = {}

    def measure(model: str, go_on: Any, **options: Any) -> Path:
        asked.update(options)
        return here / "new.parquet"

    once = ProfileOnce(print, measure)
    assert once(DEPLOYMENT, requests(prompt=300), go_on).pools["all"].profile == ("mine",)
    assert once(DEPLOYMENT, requests(prompt=600), go_on).pools["all"].profile == (str(here / "new.parquet"),)
    assert asked["max_context"] == 1024


def test_one_that_was_measured_on_a_busy_machine_is_measured_again(here: Path) -> None:
    write_profile(known({**HERE, "waited": "0.40"}), here / "mine.parquet")
    said: list[str] = []
    assert named(said, measure=lambda *words, **options: here / "new.parquet") == (str(here / "new.parquet"),)
    assert said[0] == "mine was measured beside other programs: it is measured again"
    assert named() == ("mine",), "but it is better than none"


def test_a_workload_with_images_needs_those_of_its_largest_request_twice() -> None:
    model = catalog.model("Qwen2.5-VL-7B")
    images = {"share": 1, "count": {"low": 2, "high": 2}, "sizes": [{"width": 336, "height": 224}]}
    text = {"kind": "fixed", "tokens": 100}
    spec = {"requests": 2, "arrivals": {"kind": "poisson", "rate": 1}, "prompt": text, "output": text}
    sizes = sizes_of(generate(WorkloadSpec.parse({**spec, "images": images})), model)
    assert sizes == Sizes(context=512, patches=2048)  # 2 x 24 x 16 patches, 96 tokens each


def test_what_is_measured_now_tells_how_far_it_is_and_ends_when_told_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []

    def run(model: str, *, progress: Any, **options: Any) -> None:
        for line in ({"kind": "quiet"}, {"kind": "model", "name": "m", "tensor": 1, "left": 2}):
            progress(line)
        for _ in range(2):
            progress({"kind": "turn"})
        raise AssertionError("it goes on")

    monkeypatch.setattr(profiling, "run_profile", run)

    def go_on(done: int, total: int, seconds: float) -> bool:
        told.append((done, total))
        return done < 2

    with pytest.raises(Interrupted):
        measure_now("OPT-125M", go_on)
    assert told == [(0, 0), (0, 2), (1, 2), (2, 2)]


def test_a_profile_of_the_user_that_cannot_be_read_is_named(here: Path) -> None:
    (here / "broken.parquet").write_text("no", encoding="utf-8")
    with pytest.raises(SpecError, match=r"broken\.parquet: cannot be read as Parquet"):
        named()
