"""The choice among kernels is a pure function of times, and is remembered for what it depends on."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from triptych.catalog import machine
from triptych.engine.kernels import choice as module
from triptych.engine.kernels.choice import Choice, Sizes, Timings, choose, decide, fastest

SIZES = Sizes(
    own="bf16",
    layers=12,
    heads=12,
    kv_heads=12,
    head_dim=64,
    widths=((768, 3072),),
    batch=16,
    chunk=512,
    context=512,
    wide_weights=True,
    wide_kv=True,
)


class Faked:
    """A trial that knows what it finds, and how often it was asked."""

    steady = True

    def __init__(self, products: Timings, prompts: Timings, decodes: Timings) -> None:
        self._found = (products, prompts, decodes)
        self.asked = 0
        self.given: list[str] = []

    def products(self) -> Timings:
        self.asked += 1
        return self._found[0]

    def prompts(self, products: str) -> Timings:
        self.given.append(products)
        return self._found[1]

    def decodes(self, products: str) -> Timings:
        return self._found[2]


def faked(bf16: float = 1.0, fp32: float = 2.0) -> Faked:
    return Faked(
        {"bf16": [bf16], "fp32": [fp32]},
        {"flash": [3.0, 3.0], "blocks of 64": [1.0, 1.0]},
        {"embedding bags bf16": [2.0], "flash bf16": [9.0], "embedding bags fp32": [1.0], "flash fp32": None},
    )


@pytest.mark.parametrize(
    ("timings", "expected"),
    [
        ({"first": [2.0, 2.0], "second": [1.0, 1.0]}, "second"),
        ({"first": [1.0, 4.0], "second": [1.5, 1.5]}, "second"),  # every size counts alike: 2 and 1.5
        ({"first": [1e-6, 9.0], "second": [1e-5, 3.0]}, "first"),  # whatever its seconds
        ({"first": [1.02], "second": [1.0]}, "first"),  # a tie goes to who is preferred
        ({"first": [1.04], "second": [1.0]}, "second"),
        ({"first": None, "second": [5.0]}, "second"),  # who has failed is out
        ({"first": [1.0, float("inf")], "second": [5.0, 5.0]}, "second"),
        ({"first": [], "second": [5.0]}, "second"),
    ],
)
def test_the_fastest(timings: Mapping[str, Sequence[float] | None], expected: str) -> None:
    assert fastest(timings) == expected


def test_none_that_is_right_is_an_error() -> None:
    with pytest.raises(ValueError, match="flash, blocks"):
        fastest({"flash": None, "blocks": None})


def test_attention_is_tried_in_the_format_of_the_products() -> None:
    trial = faked(bf16=4.0, fp32=2.0)
    choice, _ = decide(trial)
    assert choice == Choice("fp32", "blocks of 64", "embedding bags", "fp32")
    assert trial.given == ["fp32"]


def test_what_was_chosen_is_remembered(tmp_path: Path) -> None:
    first, second = faked(), faked(bf16=9.0)
    assert choose(SIZES, first, tmp_path) == choose(SIZES, second, tmp_path)
    assert (first.asked, second.asked) == (1, 0)


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setattr(machine, "processor", lambda: "another make"),
        lambda patch: patch.setattr(machine, "cores", lambda: 1_000),
        lambda patch: patch.setattr(machine, "threads", lambda: 1_000),
        lambda patch: patch.setattr(module, "version", lambda name: "9.9"),
        lambda patch: patch.setattr(module, "__version__", "9.9"),
    ],
    ids=["processor", "cores", "threads", "torch", "triptych"],
)
def test_it_holds_for_this_machine_and_these_versions(
    change: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose(SIZES, faked(), tmp_path).products == "bf16"
    assert callable(change)
    change(monkeypatch)
    assert choose(SIZES, faked(bf16=9.0), tmp_path).products == "fp32"


def test_it_holds_for_these_sizes(tmp_path: Path) -> None:
    choose(SIZES, faked(), tmp_path)
    assert choose(replace(SIZES, batch=1), faked(bf16=9.0), tmp_path).products == "fp32"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"question": {}, "choice": {}}',
        lambda found: json.dumps({**found, "question": {**found["question"], "processor": "another"}}),
        lambda found: json.dumps({**found, "choice": {"products": "bf16"}}),
        lambda found: json.dumps({**found, "choice": {**found["choice"], "kv": 7}}),
        lambda found: json.dumps({**found, "choice": {**found["choice"], "more": ""}}),
    ],
)
def test_a_file_that_is_broken_or_stale_is_written_anew(text: object, tmp_path: Path) -> None:
    choose(SIZES, faked(), tmp_path)
    (file,) = tmp_path.iterdir()
    wrong = text(json.loads(file.read_text())) if callable(text) else text
    file.write_text(str(wrong))
    trial = faked(bf16=9.0)
    assert choose(SIZES, trial, tmp_path).products == "fp32"
    assert trial.asked == 1
    assert json.loads(file.read_text())["choice"]["products"] == "fp32"
    assert list(tmp_path.iterdir()) == [file]


def test_a_trial_on_an_unsteady_machine_is_not_remembered(tmp_path: Path) -> None:
    trial = faked()
    trial.steady = False
    assert choose(SIZES, trial, tmp_path).products == "bf16"
    assert not list(tmp_path.iterdir())


def test_two_servers_that_start_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    here = threading.Barrier(2)

    class Slow(Faked):
        def products(self) -> Timings:
            here.wait()
            return super().products()

    found: list[Choice] = []
    trials = [Slow(*faked()._found) for _ in range(2)]
    threads = [
        threading.Thread(target=lambda trial=trial: found.append(choose(SIZES, trial, tmp_path)))
        for trial in trials
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1] == choose(SIZES, faked(bf16=9.0), tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_where_nothing_can_be_written_it_is_chosen_all_the_same(tmp_path: Path) -> None:
    barred = tmp_path / "file"
    barred.write_text("")
    assert choose(SIZES, faked(), barred / "below").products == "bf16"
