"""The command line: what it prints and writes, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import triptych
from triptych.cli import main

PROGRAM = [sys.executable, "-c", "from triptych.cli import main; main()"]
WHOLE = {
    *("run.json", "summary.json", "deployment.yaml", "workload.yaml"),
    *("requests.parquet", "batches.parquet", "spans.parquet", "transfers.parquet"),
}
"""Files of a run folder in which nothing is left out."""


class Finished(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Finished]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a deployment over two pools and a workload of 20 requests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    Path("d.yaml").write_text(
        "model: opt-125m\n"
        "pools:\n"
        "  prefill: {phases: [prefill], device: A10, scheduler: {policy: sarathi}}\n"
        "  decode: {phases: [decode], device: A10, scheduler: {policy: unified}}\n"
    )
    Path("w.yaml").write_text(
        "requests: 20\n"
        "arrivals: {kind: poisson, rate: 20}\n"
        "prompt: {kind: uniform, low: 10, high: 200}\n"
        "output: {kind: fixed, tokens: 20}\n"
    )
    return tmp_path


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs the command line in this process, where its output is no terminal."""

    def run(*arguments: str) -> Finished:
        monkeypatch.setattr(sys, "argv", ["triptych", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        code = exit_.value.code or 0
        assert isinstance(code, int)
        return Finished(code, *capfd.readouterr())

    return run


def names(folder: str) -> set[str]:
    return {path.name for path in Path(folder).iterdir()}


class TestCatalogue:
    def test_the_version_is_that_of_the_package(self, command: Command) -> None:
        assert command("--version") == (0, f"triptych {triptych.__version__}\n", "")

    def test_models_are_listed(self, command: Command) -> None:
        finished = command("models")
        assert (finished.code, finished.err) == (0, "")
        assert "Llama-3-8B" in finished.out
        assert "Qwen2.5-VL-7B" in finished.out

    def test_devices_and_nodes_are_listed(self, command: Command) -> None:
        finished = command("devices")
        assert (finished.code, finished.err) == (0, "")
        assert "H100" in finished.out
        assert "DGX-H100" in finished.out

    def test_the_help_ends_with_two_commands_that_work(self, here: Path, command: Command) -> None:
        lines = [line.strip() for line in command("--help").out.splitlines() if line.strip()]
        for line in lines[-2:]:
            program, *words = line.split()
            assert program == "triptych"
            done = command(*words)
            assert (done.code, done.err) == (0, "")
        assert "requests finished" in done.out

    def test_shells_complete_verbs_and_options(self, here: Path) -> None:
        for typed, offered in (("triptych exa", "examples"), ("triptych simulate --tr", "--trace")):
            asked = {
                "_TRIPTYCH_COMPLETE": "complete_bash",
                "COMP_WORDS": typed,
                "COMP_CWORD": str(typed.count(" ")),
            }
            done = subprocess.run(
                PROGRAM, env={**os.environ, **asked}, capture_output=True, text=True, timeout=60, check=False
            )
            assert done.stdout.split() == [offered]

    def test_no_verb_is_a_request_for_help(self, command: Command) -> None:
        finished = command()
        assert finished.code == 0
        for verb in ("simulate", "models", "devices"):
            assert verb in finished.out


class TestSimulate:
    def test_it_prints_tables(self, here: Path, command: Command) -> None:
        finished = command("simulate", "d.yaml", "w.yaml")
        assert (finished.code, finished.err) == (0, "")
        assert "20 of 20 requests finished" in finished.out
        for word in ("TTFT", "TPOT", "E2E", "prefill", "decode"):
            assert word in finished.out
        assert names(".") == {"d.yaml", "w.yaml"}

    def test_what_is_no_terminal_gets_no_escape_codes(self, here: Path, command: Command) -> None:
        for arguments in (("simulate", "d.yaml", "w.yaml"), ("models",), ("devices",)):
            finished = command(*arguments)
            assert "\x1b" not in finished.out + finished.err

    def test_it_writes_the_run(self, here: Path, command: Command) -> None:
        finished = command("simulate", "d.yaml", "w.yaml", "--out", "runs/first")
        assert finished.out.endswith("run record in runs/first\n")
        assert names("runs") == {"first"}
        assert names("runs/first") == WHOLE
        run = triptych.read_run("runs/first")
        assert len(run.requests["id"]) == 20
        assert not run.interrupted

    def test_fields_are_set(self, here: Path, command: Command) -> None:
        sets = ("pools.decode.instances=3", "workload.requests=7", "workload.arrivals={kind: at-once}")
        command("simulate", "d.yaml", "w.yaml", "--out", "run", *(p for s in sets for p in ("--set", s)))
        run = triptych.read_run("run")
        assert len(run.requests["id"]) == 7
        assert [place.pool for place in run.instances] == ["prefill", *["decode"] * 3]
        assert triptych.Deployment.load("run/deployment.yaml").pools["decode"].instances == 3
        assert triptych.WorkloadSpec.load("run/workload.yaml").arrivals.kind == "at-once"

    def test_the_saved_deployment_holds_the_defaults_of_its_policies(
        self, here: Path, command: Command
    ) -> None:
        policies = ("pools.prefill.scheduler={policy: sarathi}", "pools.decode.scheduler={policy: orca}")
        command("simulate", "d.yaml", "w.yaml", "--out", "run", *(p for s in policies for p in ("--set", s)))
        pools = triptych.Deployment.load("run/deployment.yaml").pools
        knobs = pools["prefill"].scheduler
        assert (knobs.max_tokens, knobs.watermark, knobs.max_patches) == (512, 0.01, None)
        knobs = pools["decode"].scheduler
        assert (knobs.max_tokens, knobs.watermark, knobs.max_patches) == (None, None, None)

    def test_a_run_can_be_run_again_from_its_folder(self, here: Path, command: Command) -> None:
        command("simulate", "d.yaml", "w.yaml", "--out", "run", "--set", "workload.seed=5")
        again = command("simulate", "run/deployment.yaml", "run/workload.yaml", "--out", "again")
        assert again.code == 0
        first, second = (triptych.read_run(folder).requests for folder in ("run", "again"))
        assert (first["end"] == second["end"]).all()

    def test_the_trace_is_one_of_chrome_events(self, here: Path, command: Command) -> None:
        command("simulate", "d.yaml", "w.yaml", "--out", "run", "--trace")
        assert names("run") == WHOLE | {"trace.json"}
        events = json.loads(Path("run/trace.json").read_text())["traceEvents"]
        assert {event["ph"] for event in events} >= {"X", "M"}

    @pytest.mark.parametrize(
        ("kept", "missing"),
        [("all", set()), ("sample", {"spans.parquet"}), ("off", {"spans.parquet", "batches.parquet"})],
    )
    def test_batches_can_be_left_out(
        self, kept: str, missing: set[str], here: Path, command: Command
    ) -> None:
        command("simulate", "d.yaml", "w.yaml", "--out", "run", "--batches", kept)
        assert names("run") == WHOLE - missing
        assert triptych.read_run("run").batch_log == kept

    def test_stepping_gives_the_same_times_as_jumping(self, here: Path, command: Command) -> None:
        for flag, folder in (("--jump", "jumped"), ("--no-jump", "stepped")):
            assert command("simulate", "d.yaml", "w.yaml", flag, "--out", folder).code == 0
        jumped, stepped = triptych.read_run("jumped"), triptych.read_run("stepped")
        np.testing.assert_allclose(jumped.requests["end"], stepped.requests["end"], rtol=1e-9)
        assert sum(map(len, jumped.lanes)) < sum(map(len, stepped.lanes))

    def test_a_later_run_takes_the_place_of_an_earlier_one(self, here: Path, command: Command) -> None:
        command("simulate", "d.yaml", "w.yaml", "--out", "run", "--trace")
        second = command("simulate", "d.yaml", "w.yaml", "--out", "run", "--set", "workload.requests=3")
        assert second.code == 0
        assert names("run") == WHOLE
        assert len(triptych.read_run("run").requests["id"]) == 3
        assert names(".") == {"d.yaml", "w.yaml", "run"}

    def test_a_run_too_large_for_memory_is_one_line(
        self, here: Path, command: Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def too_large(*arguments: object, **options: object) -> bool:
            raise MemoryError("Unable to allocate 7.45 TiB")

        monkeypatch.setattr("triptych.report.console.simulate", too_large)
        says = "not enough memory; declare fewer requests or instances (Unable to allocate 7.45 TiB)"
        assert command("simulate", "d.yaml", "w.yaml", "--out", "run") == (2, "", f"triptych: {says}\n")
        assert names(".") == {"d.yaml", "w.yaml"}

    def test_a_mistake_leaves_an_earlier_run_alone(self, here: Path, command: Command) -> None:
        command("simulate", "d.yaml", "w.yaml", "--out", "run")
        assert command("simulate", "d.yaml", "w.yaml", "--out", "run", "--set", "seed=x").code == 2
        assert len(triptych.read_run("run").requests["id"]) == 20


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_an_interrupt_keeps_what_is_finished(here: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    arguments = ["simulate", "d.yaml", "w.yaml", "--out", "run", "--set", "workload.requests=300000"]
    with subprocess.Popen(
        [*PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        env={**os.environ, "TERM": "xterm"},
    ) as process:
        os.close(theirs)
        shown = b""
        while b"requests/s" not in shown:  # the progress on the terminal: it is in the middle of its work
            shown += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=30)
    os.close(ours)
    assert process.returncode == 130
    assert "interrupted" in printed
    assert "\x1b" not in printed
    assert names(".") == {"d.yaml", "w.yaml", "run"}
    assert names("run") == WHOLE
    run = triptych.read_run("run")
    counts = triptych.summarise(run).counts
    assert run.interrupted
    assert 0 < counts.finished < 300_000
    assert counts.requests + counts.never_came == 300_000
    assert f"interrupted, {counts.never_came:,} requests never came" in " ".join(printed.split())


class TestStart:
    """Slow imports wait until they are needed, so that work begins at once."""

    def imported(self, program: str) -> set[str]:
        """Packages that are imported when `program` has run."""
        tell = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
        done = subprocess.run(
            [sys.executable, "-c", f"{program}\n{tell}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return set(done.stdout.split())

    def test_the_command_line_alone_needs_little(self) -> None:
        slow = {"torch", "ray", "sklearn", "scipy", "pandas", "pyarrow", "numpy", "rich"}
        assert not self.imported("import triptych, triptych.cli") & slow

    def test_a_simulation_begins_without_what_only_its_end_needs(self, here: Path) -> None:
        until_the_first_event = (
            "import sys\n"
            "from pathlib import Path\n"
            "from triptych.cli import app\n"
            "from triptych.report import console\n"
            "from triptych.simulation import api\n"
            "class Built(Exception): pass\n"
            "def build(*args, real=api.build, **kwargs):\n"
            "    real(*args, **kwargs)\n"
            "    raise Built\n"
            "api.build = build\n"
            "try: app(['simulate', 'd.yaml', 'w.yaml', '--out', 'run'], standalone_mode=False)\n"
            "except Built: pass\n"
        )
        slow = {"torch", "ray", "sklearn", "scipy", "pandas", "pyarrow"}
        imported = self.imported(until_the_first_event)
        assert "numpy" in imported
        assert not imported & slow
