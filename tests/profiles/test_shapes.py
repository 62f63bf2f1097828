"""A profile of our own that says which shapes it is of: other shapes, and other units, are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from triptych import catalog
from triptych.profiles import Profile, ProfileInfo, profile_of, read_profile, write_profile
from triptych.profiles.library import load_profile
from triptych.profiles.shapes import is_of_shape, shape_of
from triptych.spec.base import SpecError

LLAMA = catalog.model("Llama-3-8B")
TOKENS = [1, 512, 4096]


def profile(factor: float = 1.0, *, device: str = "H100", operator: str = "mlp up", **more: Any) -> Profile:
    """An operator of Llama-3-8B at half of what the data sheet can do, and a launch."""
    info = ProfileInfo(
        name="mine", device=device, source="a test", **{"shapes": {LLAMA.name: shape_of(LLAMA)}, **more}
    )
    flops = catalog.device(device).flops["bf16"]
    seconds = [2 * 2 * 2 * 4096 * 14336 * tokens / flops + 5e-6 for tokens in TOKENS]
    columns = {"model": LLAMA.name, "operator": [operator] * len(TOKENS), "units": TOKENS}
    return profile_of(info, {**columns, "seconds": [factor * each for each in seconds]})


def wider() -> Any:
    return LLAMA.model_copy(update={"text": LLAMA.text.model_copy(update={"hidden": 5120})})


def test_a_shape_is_what_the_time_of_operators_depends_on() -> None:
    assert {"hidden": 4096, "kv_heads": 8, "vocab": 128256}.items() <= shape_of(LLAMA).items()
    deeper = LLAMA.text.model_copy(update={"layers": 80, "max_context": 131072})
    assert shape_of(LLAMA.model_copy(update={"text": deeper})) == shape_of(LLAMA)
    assert "experts.count" in shape_of(catalog.model("Qwen3-30B-A3B"))
    assert "vision.hidden" in shape_of(catalog.model("Qwen2.5-VL-7B"))


def test_another_model_of_the_same_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.parquet"
    write_profile(profile(), path)
    assert load_profile(path, model=LLAMA).info.shapes
    says = r"mine\.parquet: shapes\.Llama-3-8B\.hidden: 4096 is not that of Llama-3-8B, 5120; measure"
    with pytest.raises(SpecError, match=says):
        load_profile(path, model=wider())
    assert not is_of_shape(read_profile(path), wider())


def test_a_profile_that_tells_no_shape_is_taken_at_its_word() -> None:
    assert is_of_shape(profile(shapes={}), wider())


@pytest.mark.parametrize("device", ["H100", "CPU"])
@pytest.mark.parametrize("operator", ["mlp up", "mlp up+mlp activation"])
def test_times_in_a_smaller_unit_are_refused_by_row(device: str, operator: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.parquet"
    write_profile(profile(device=device, operator=operator), path)
    assert len(read_profile(path)) == len(TOKENS)
    write_profile(profile(1e3, device=device, operator=operator), path)
    says = r"mine\.parquet: seconds, row \d: .* 1,000 times the data sheet's; it looks like ms where s belong"
    with pytest.raises(SpecError, match=says):
        read_profile(path)


def test_times_faster_than_the_device_are_refused_but_for_the_cpu(tmp_path: Path) -> None:
    path = tmp_path / "mine.parquet"
    write_profile(profile(0.1), path)
    with pytest.raises(
        SpecError, match=r"seconds, row 1: .* 3 times faster than the data sheet; name its dev"
    ):
        read_profile(path)
    write_profile(profile(0.1, device="CPU"), path)
    assert len(read_profile(path))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (float("nan"), r"mine\.parquet: seconds, row 1: nan is no number"),
        (-1e-3, r"mine\.parquet: seconds, row 1: -0\.001 is negative"),
    ],
)
def test_what_is_no_time_is_refused_by_row(wrong: float, says: str, tmp_path: Path) -> None:
    path, broken = tmp_path / "mine.parquet", profile()
    broken.columns["seconds"][1] = wrong
    write_profile(broken, path)
    with pytest.raises(SpecError, match=says):
        read_profile(path)


def test_a_launch_of_no_prompt_is_refused_by_row(tmp_path: Path) -> None:
    path, broken = tmp_path / "mine.parquet", profile()
    broken.columns["prompts"][1] = 0
    write_profile(broken, path)
    with pytest.raises(SpecError, match=r"mine\.parquet: prompts, row 1: 0 is no number of prompts; fix"):
        read_profile(path)


def test_a_column_that_is_missing_is_named(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "mine.parquet"
    write_profile(profile(), path)
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["seconds"]), path)
    with pytest.raises(SpecError, match=r"mine\.parquet: seconds: no such column"):
        read_profile(path)
