"""`device: CPU` is the processor at hand, measured once and kept: tests fake the measurement."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from triptych import catalog
from triptych.catalog import hardware, here, machine, probe
from triptych.spec.base import SpecError

FOUND = {"fp32": 123.4e9, "bandwidth": 45.6e9, "waited": 0.01}


class Probe:
    """Stands for the measuring program: prints what it was given, and counts how often it ran."""

    def __init__(self) -> None:
        self.found: dict[str, float] = dict(FOUND)
        self.fails_without = ""
        self.environments: list[dict[str, str]] = []

    def run(self, command: list[str], *, env: dict[str, str], **options: Any) -> SimpleNamespace:
        self.environments.append(env)
        if self.fails_without and self.fails_without not in env:
            raise subprocess.CalledProcessError(-4, command)
        return SimpleNamespace(stdout=json.dumps(self.found))


@pytest.fixture
def measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Probe]:
    """A machine that was never measured: four cores of a made-up processor."""
    stands = Probe()
    monkeypatch.setattr(here.subprocess, "run", stands.run)
    monkeypatch.setattr(machine, "processor", lambda: "Made-Up 9000")
    monkeypatch.setattr(machine, "cores", lambda: 4)
    monkeypatch.setattr(machine, "features", lambda: frozenset({"avx2"}))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    forget()
    yield stands
    monkeypatch.undo()
    forget()


def forget() -> None:
    """What this process has in memory, as if it were another."""
    here.this_cpu.cache_clear()
    hardware._device.cache_clear()


def test_it_is_what_was_measured(measuring: Probe) -> None:
    device = catalog.device("cpu")
    assert device.name == "CPU"
    assert device.architecture == "Made-Up 9000, 4 cores"
    assert device.flops == {"fp32": 123e9, "bf16": 123e9}
    assert device.bandwidth == 45.6e9
    assert device.peak_watts == 30
    assert "in which it is computed" in device.sources["flops"]


@pytest.mark.parametrize(
    ("features", "times"), [({"avx512_bf16"}, 2), ({"avx512_bf16", "amx_bf16"}, 10.5), ({"avx512f"}, 1)]
)
def test_bf16_follows_from_the_instructions_for_it(
    features: set[str], times: float, measuring: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "features", lambda: frozenset(features))
    flops = catalog.device("CPU").flops
    assert flops["bf16"] == pytest.approx(times * flops["fp32"], rel=0.01)


def test_it_is_measured_once(measuring: Probe) -> None:
    first = catalog.device("CPU")
    forget()
    assert catalog.device("CPU") == first
    assert len(measuring.environments) == 1


@pytest.mark.parametrize("what", ["processor", "cores", "memory"])
def test_another_machine_is_measured_anew(
    what: str, measuring: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog.device("CPU")
    other: Any = {"processor": "Made-Up 9001", "cores": 1, "memory": 2**30}[what]
    monkeypatch.setattr(machine, what, lambda: other)
    forget()
    catalog.device("CPU")
    assert len(measuring.environments) == 2


def test_a_measurement_that_had_to_wait_for_a_processor_is_not_kept(measuring: Probe) -> None:
    measuring.found["waited"] = 0.4
    assert catalog.device("CPU").bandwidth == 45.6e9
    forget()
    measuring.found = {"fp32": 200e9, "bandwidth": 50e9, "waited": 0.0}
    assert catalog.device("CPU").bandwidth == 50e9


def test_settings_of_numerical_libraries_do_not_slow_it_down(
    measuring: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    catalog.device("CPU")
    (environment,) = measuring.environments
    assert "OPENBLAS_CORETYPE" not in environment
    assert environment["OPENBLAS_NUM_THREADS"] == "4"


def test_unless_it_does_not_run_without_them(measuring: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    measuring.fails_without = "OPENBLAS_CORETYPE"
    assert catalog.device("CPU").bandwidth == 45.6e9


def test_what_cannot_be_measured_is_one_line(measuring: Probe) -> None:
    measuring.fails_without = "NOWHERE"
    with pytest.raises(SpecError, match=r"^device: the CPU at hand could not be measured .*; name a device"):
        catalog.device("CPU")


def test_the_catalogues_figures_are_used_when_they_are_asked_for(measuring: Probe) -> None:
    device = catalog.device("cpu-xeon-4")
    assert device.flops == {"fp32": 0.2e12, "bf16": 2.1e12}
    assert measuring.environments == []


def test_the_measuring_program_measures() -> None:
    """With NumPy alone, in no more than a few seconds on any machine."""
    ran = subprocess.run(
        [sys.executable, "-P", probe.__file__, "1"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(ran.stdout)
    assert found["fp32"] > 1e8 and found["bandwidth"] > 1e7
    assert found["waited"] >= 0


def test_cores_are_those_that_the_process_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.sys, "platform", "linux")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: {1, 3, 5, 7})
    own = tmp_path / "cgroup"
    own.write_text("1:cpu:/\n0::/slice/task\n")
    monkeypatch.setattr(machine, "_OWN_CGROUP", own)
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    task = tmp_path / "slice" / "task"
    task.mkdir(parents=True)
    (task / "cpu.max").write_text("max 100000\n")
    assert machine.cores() == 4
    (tmp_path / "slice" / "cpu.max").write_text("150000 100000\n")
    assert machine.cores() == 2
    (task / "memory.max").write_text("1048576\n")
    assert machine.memory() == 1048576


def test_names_of_processors_and_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = tmp_path / "cpuinfo"
    said.write_text("model name\t: P 1\nflags\t\t: fpu avx2\n\nmodel name\t: P 2\nflags\t\t: fpu\n")
    monkeypatch.setattr(machine, "_CPUINFO", said)
    assert machine.processor() == "P 1"
    assert machine.features() == {"fpu", "avx2"}
