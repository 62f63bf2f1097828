"""The skew table beside a layer profile of vLLM: alpha by buckets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.profiles.data import DATA, edit, published, write_csv

from triptych.profiles.readers.skew import Axis, read_skew
from triptych.spec.base import SpecError
from triptych.spec.yaml import dump_yaml, parse_yaml

PROFILES = DATA / "vllm_rtx/profiles"
ROWS = {
    "pc": [0, 0, 512, 512],
    "n_label": ["n<=2", "n<=8", "n<=2", "n<=2"],
    "skew_rate_label": ["sr<=70%", "sr<=15%", "sr<=70%", "sr<=70%"],
    "kv_big_label": ["kvB<=4k", "kvB<=4k", "kvB<=4k", "kvB<=4k"],
    "kp_label": ["kp=0", "kp=0", "kp=0", "kp<=1k"],
    "alpha": [0.2, -0.3, 0.9, 1.4],
    "n_samples": [2, 6, 2, 2],
}


def folder(path: Path, **fit: Any) -> Path:
    path.mkdir(parents=True)
    (path / "meta.yaml").write_text(dump_yaml({"skew_fit": fit}), encoding="utf-8")
    write_csv(path / "tp1/skew_fit.csv", ROWS)
    return path / "tp1"


def test_alpha_is_that_of_the_bucket(tmp_path: Path) -> None:
    skew = read_skew(folder(tmp_path / "bf16"))
    sizes = {"history": 0, "mean": 2500.0, "shortest": 1000, "longest": 4000}
    assert skew.alpha(chunk=0, decodes=2, **sizes) == 0.2
    assert skew.alpha(chunk=512, decodes=2, **sizes) == 0.9


def test_alpha_stays_between_the_mean_and_the_longest(tmp_path: Path) -> None:
    skew = read_skew(folder(tmp_path / "bf16"))
    beyond = {"chunk": 512, "history": 600, "decodes": 2, "mean": 2500.0, "shortest": 1000, "longest": 4000}
    assert skew.alphas[(512, 0, 3, 1, 2)] == 1.4
    assert skew.alpha(**beyond) == 1.0
    below = {"chunk": 0, "history": 0, "decodes": 8, "mean": 1375.0, "shortest": 1000, "longest": 4000}
    assert skew.alpha(**below) == 0.0


def test_a_chunk_between_those_measured_takes_the_nearest(tmp_path: Path) -> None:
    skew = read_skew(folder(tmp_path / "bf16"))
    sizes = {"history": 0, "decodes": 2, "mean": 2500.0, "shortest": 1000, "longest": 4000}
    assert skew.alpha(chunk=300, **sizes) == 0.9


def test_equal_lengths_and_single_decodes_have_none(tmp_path: Path) -> None:
    skew = read_skew(folder(tmp_path / "bf16", per_tp={1: {"alpha_default": 0.5}}))
    assert skew.alpha(chunk=0, history=0, decodes=2, mean=9.0, shortest=9, longest=9) == 0
    assert skew.alpha(chunk=0, history=0, decodes=1, mean=9.0, shortest=9, longest=9) == 0


def test_a_bucket_without_samples_has_the_default(tmp_path: Path) -> None:
    sizes = {"chunk": 0, "history": 0, "decodes": 64, "mean": 2500.0, "shortest": 1000, "longest": 4000}
    assert read_skew(folder(tmp_path / "a", per_tp={1: {"alpha_default": 0.05}})).alpha(**sizes) == 0.05
    # Without one it is the mean of decodes alone, each within 0 and 1: (2 x 0.2 + 6 x 0) / 8.
    assert read_skew(folder(tmp_path / "b")).alpha(**sizes) == pytest.approx(0.05)


def test_a_limit_belongs_to_the_bucket_below_it() -> None:
    axis = Axis((2, 4), ("n<=2", "n<=4", "n>4"))
    assert [axis.bucket(value) for value in (1, 2, 3, 4, 5)] == [0, 0, 1, 1, 2]


@published
@pytest.mark.parametrize(
    "path", sorted(PROFILES.glob("*/*/*/*/tp*")), ids=lambda path: "-".join(path.parts[-4:])
)
def test_a_published_table_has_all_samples_that_its_origin_names(path: Path) -> None:
    skew = read_skew(path)
    meta = parse_yaml((path.parent / "meta.yaml").read_text(encoding="utf-8"))["skew_fit"]
    lines = (path / "skew_fit.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert len(skew.alphas) == len(lines)
    assert skew.enabled == meta["enabled"]
    if skew.enabled:
        about = meta["per_tp"][int(path.name[2:])]
        assert sum(int(line.rsplit(",", 1)[1]) for line in lines) == about["n_samples"]
        assert skew.default == about["alpha_default"]


@published
def test_the_rtx_4090_has_a_table_that_its_origin_does_not_use() -> None:
    skew = read_skew(PROFILES / "RTX4090/meta-llama/Llama-3.1-8B/bf16/tp1")
    assert not skew.enabled
    assert skew.alphas


@published
def test_the_skew_rate_is_the_share_of_long_decodes() -> None:
    """1, 2, 3, 4 and the grid's ratios of 2 to 256 decodes are long: so many samples has each bucket."""
    rates = (0.0625, 0.125, 0.25, 0.5, 0.75, 0.9)
    skew = read_skew(PROFILES / "RTXPRO6000/Qwen/Qwen3-32B/bf16/tp1")
    expected: dict[tuple[int, int], int] = {}
    for size in (2, 4, 8, 16, 32, 64, 128, 256):
        long = {1, 2, 3, 4} | {max(1, round(size * rate)) for rate in rates}
        for count in long:
            if count < size:
                key = (skew.axes["n"].bucket(size), skew.axes["skew_rate"].bucket(count / size))
                expected[key] = expected.get(key, 0) + 2
    file = PROFILES / "RTXPRO6000/Qwen/Qwen3-32B/bf16/tp1/skew_fit.csv"
    samples = [int(line.rsplit(",", 1)[1]) for line in file.read_text(encoding="utf-8").splitlines()[1:]]
    same = [expected[key[1:3]] == count for key, count in zip(skew.alphas, samples, strict=True)]
    assert sum(same) / len(same) > 0.98


def test_faults_are_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "a")
    edit(path / "skew_fit.csv", 1, "n_label", "n<=3")
    with pytest.raises(SpecError, match=r"skew_fit\.csv: n_label, row 1: 'n<=3' is none of"):
        read_skew(path)
    path = folder(tmp_path / "b")
    edit(path / "skew_fit.csv", 3, "kp_label", "kp=0")
    with pytest.raises(SpecError, match=r"skew_fit\.csv: row 3: its bucket has come before"):
        read_skew(path)
    path = folder(tmp_path / "c", bucket_axes={"n_bins": [0, 2], "n_labels": ["a", "b"]})
    with pytest.raises(SpecError, match=r"meta\.yaml: skew_fit\.bucket_axes\.n_bins: must be a list"):
        read_skew(path)
