"""Bad input: the cases of bad_input.yaml through the command line.

Whatever is wrong, the exit code is 2, one line on standard error names the file, the field and the fix,
nothing is printed on standard output, and nothing is written.
"""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from triptych.cli import main
from triptych.spec.yaml import dump_yaml, parse_yaml

Data = dict[str, Any]

BASES: dict[str, Data] = parse_yaml("""
text:
  model: opt-125m
  pools:
    all: {phases: [prefill, decode], device: A10, scheduler: {policy: unified}}
split:
  model: opt-125m
  pools:
    p: {phases: [prefill], device: A10, scheduler: {policy: unified}}
    d: {phases: [decode], device: A10, scheduler: {policy: unified}}
vision:
  model: Qwen2.5-VL-3B
  pools:
    e: {phases: [encode], device: A10, scheduler: {policy: encode}}
    pd: {phases: [prefill, decode], device: A10, scheduler: {policy: unified}}
moe:
  model: Qwen1.5-MoE-A2.7B
  pools:
    all: {phases: [prefill, decode], device: H100, scheduler: {policy: unified}}
""")
WORKLOAD: Data = parse_yaml("""
requests: 3
arrivals: {kind: poisson, rate: 2}
prompt: {kind: fixed, tokens: 100}
output: {kind: fixed, tokens: 4}
""")
CONFIG: Data = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 100,
    "max_position_embeddings": 128,
}
GROUPS: dict[str, list[Data]] = parse_yaml(
    Path(__file__).with_suffix("").with_name("bad_input.yaml").read_text(encoding="utf-8")
)
CASES = [
    pytest.param(case, id=f"{group}: {case['what']}") for group, cases in GROUPS.items() for case in cases
]
SIMULATE = ("simulate", "d.yaml", "w.yaml", "--out", "run")


class Finished(NamedTuple):
    code: int
    out: str
    err: str


Triptych = Callable[..., Finished]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a deployment and a workload that are right."""
    monkeypatch.chdir(tmp_path)
    Path("d.yaml").write_text(changed(BASES["text"], {}))
    Path("w.yaml").write_text(changed(WORKLOAD, {}))
    return tmp_path


@pytest.fixture
def triptych(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Triptych:
    """Runs the command line in this process."""

    def run(*arguments: str) -> Finished:
        monkeypatch.setattr(sys, "argv", ["triptych", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        code = exit_.value.code or 0
        assert isinstance(code, int)
        return Finished(code, *capfd.readouterr())

    return run


def changed(base: Data, changes: Data) -> str:
    """A declaration as YAML, with values set, or removed, at dotted paths."""
    data = copy.deepcopy(base)
    for path, value in changes.items():
        *parents, name = path.split(".")
        node = data
        for parent in parents:
            node = node.setdefault(parent, {})
        if value == "(removed)":
            del node[name]
        else:
            node[name] = value
    return dump_yaml(data)


def write_files(case: Data) -> None:
    """What the user of a case has in the current folder."""
    base = BASES[case.get("base", "text")]
    files = {
        "d.yaml": changed(base, case.get("deployment", {})),
        "w.yaml": changed(WORKLOAD, case.get("workload", {})),
    }
    if "config" in case:
        files["m/config.json"] = json.dumps(parse_yaml(changed(CONFIG, case["config"])))
    if "trace" in case:
        files["w.yaml"] = dump_yaml({"trace": case["trace"]})
    for name, content in {**files, **case.get("files", {})}.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(content.encode("latin-1"))


def arguments_of(case: Data) -> list[str]:
    if "run" in case:
        return str(case["run"]).split()
    overrides = [part for text in case.get("set", ()) for part in ("--set", text)]
    return [*SIMULATE[:-1], case.get("out", "run"), *overrides]


def assert_refused(finished: Finished, says: str, here: Path) -> None:
    """That one line was printed, which says so, and nothing else."""
    assert (finished.code, finished.out) == (2, "")
    line = finished.err.removesuffix("\n")
    assert len(line.splitlines()) == 1, finished.err
    pattern = ".*".join(re.escape(part) for part in says.replace("{here}", str(here)).split("..."))
    assert re.fullmatch(f"triptych: {pattern}", line), f"{line}\nis not\ntriptych: {says}"


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_line(case: Data, here: Path, triptych: Triptych) -> None:
    write_files(case)
    before = sorted(here.rglob("*"))
    assert_refused(triptych(*arguments_of(case)), case["says"], here)
    assert sorted(here.rglob("*")) == before


def test_there_are_cases_of_every_kind() -> None:
    assert len(CASES) >= 150
    assert all(len(cases) >= 4 for cases in GROUPS.values())


@pytest.mark.parametrize("group", ["files", "numbers", "traces", "commands"])
def test_a_process_of_its_own_says_the_same(group: str, here: Path) -> None:
    case = GROUPS[group][-1]
    write_files(case)
    program = "from triptych.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments_of(case)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert_refused(Finished(done.returncode, done.stdout, done.stderr), case["says"], here)


@pytest.mark.parametrize("base", BASES)
def test_what_the_cases_start_from_is_right(base: str, here: Path, triptych: Triptych) -> None:
    write_files({"base": base})
    assert triptych(*SIMULATE)[::2] == (0, "")


def test_a_declaration_of_brackets_alone(here: Path, triptych: Triptych) -> None:
    Path("d.yaml").write_text("[" * 2_000)
    assert_refused(triptych(*SIMULATE), "d.yaml: not valid YAML: nested too deeply", here)


DIGITS = "9" * 5_000
"""Of a number that Python reads from no text (`sys.set_int_max_str_digits`)."""


@pytest.mark.parametrize("number", [DIGITS, f"-{DIGITS}"])
def test_a_number_of_thousands_of_digits(number: str, here: Path, triptych: Triptych) -> None:
    Path("w.yaml").write_text(f"requests: {number}\n")
    says = "w.yaml: line 1: not valid YAML: '...9... cannot be read as a value; correct it, ..."
    assert_refused(triptych(*SIMULATE), says, here)


def test_a_hexadecimal_number_of_thousands_of_digits(here: Path, triptych: Triptych) -> None:
    """Python reads it, and refuses to print it."""
    Path("w.yaml").write_text(changed(WORKLOAD, {}).replace("requests: 3", f"requests: 0x{'f' * 5_000}"))
    says = "w.yaml: requests: must be less than or equal to 100000000, not a number of thousands of digits"
    assert_refused(triptych(*SIMULATE), says, here)


def test_an_override_of_thousands_of_digits(here: Path, triptych: Triptych) -> None:
    says = f"--set seed={DIGITS}: the value is not valid YAML: '99...99... cannot be read as a value; ..."
    assert_refused(triptych(*SIMULATE, "--set", f"seed={DIGITS}"), says, here)


def test_a_model_of_thousands_of_digits(here: Path, triptych: Triptych) -> None:
    write_files({"deployment": {"model": "m"}, "files": {"m/config.json": f'{{"hidden_size": {DIGITS}}}'}})
    says = "m/config.json: not valid JSON: a number has too many digits; correct it"
    assert_refused(triptych(*SIMULATE), says, here)


@pytest.mark.parametrize(
    ("format_", "row", "says"),
    [
        (
            "azure",
            f"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 12:00:00,{DIGITS},4\n",
            "line 2, ContextTokens: must be a whole number of tokens, not '9...; correct or remove the line",
        ),
        (
            "mooncake",
            f'{{"timestamp": 0, "input_length": {DIGITS}, "output_length": 1, "hash_ids": []}}\n',
            "line 1: a number has too many digits; correct or remove the line",
        ),
    ],
)
def test_a_trace_of_thousands_of_digits(
    format_: str, row: str, says: str, here: Path, triptych: Triptych
) -> None:
    write_files({"trace": {"format": format_, "path": "t"}, "files": {"t": row}})
    assert_refused(triptych(*SIMULATE), f"{{here}}/t: {says}", here)


def test_a_folder_with_a_name_too_long(here: Path, triptych: Triptych) -> None:
    name = "x" * 300
    says = f"{name}: cannot be written: File name too long; name another place"
    assert_refused(triptych(*SIMULATE[:-1], name), says, here)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="this user may read and write everything"
)
class TestPermissions:
    def test_a_file_that_may_not_be_read(self, here: Path, triptych: Triptych) -> None:
        Path("d.yaml").chmod(0)
        assert_refused(triptych(*SIMULATE), "d.yaml: cannot be read: Permission denied", here)

    def test_a_folder_that_may_not_be_written_to(self, here: Path, triptych: Triptych) -> None:
        here.chmod(0o500)
        says = "run: cannot be written: Permission denied; name another place"
        try:
            assert_refused(triptych(*SIMULATE), says, here)
        finally:
            here.chmod(0o700)


def test_requests_that_fit_nowhere_are_a_result(here: Path, triptych: Triptych) -> None:
    write_files({"deployment": {"pools.all.kv_blocks": 2}})
    finished = triptych(*SIMULATE)
    assert (finished.code, finished.err) == (0, "")
    assert "0 of 3 requests finished" in finished.out
    assert "3 rejected" in finished.out
