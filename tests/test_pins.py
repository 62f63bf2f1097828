"""The pins: an exact version of all that a clone installs, for every Python and system, and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PINS = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MACHINES = [
    pytest.param(
        {
            "python_version": python,
            "python_full_version": f"{python}.1",
            "sys_platform": system,
            "platform_system": {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}[system],
            "platform_machine": machine,
        },
        id=f"{python}-{system}",
    )
    for python in ("3.11", "3.12", "3.13")
    for system, machine in (("linux", "x86_64"), ("darwin", "arm64"), ("win32", "AMD64"))
]


def requirements() -> Iterator[Requirement]:
    """All that the project asks for: to run, to test, to lint and to build it."""
    project, wheel = PROJECT["project"], PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    yield from map(Requirement, project["dependencies"])
    for extra in project["optional-dependencies"].values():
        yield from map(Requirement, extra)
    for group in PROJECT["dependency-groups"].values():
        yield from map(Requirement, group)
    yield from map(Requirement, PROJECT["build-system"]["requires"])
    for hook in wheel["hooks"].values():
        yield from map(Requirement, hook["dependencies"])


@pytest.mark.parametrize("machine", MACHINES)
def test_every_requirement_is_pinned_within_its_range(machine: dict[str, str]) -> None:
    pinned: dict[str, str] = {}
    for line in PINS:
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate(machine):
            assert canonicalize_name(pin.name) not in pinned, line
            pinned[canonicalize_name(pin.name)] = str(pin.specifier).removeprefix("==")
    wanted = [found for found in requirements() if found.marker is None or found.marker.evaluate(machine)]
    assert len(wanted) > 40
    for requirement in wanted:
        name = canonicalize_name(requirement.name)
        if name == PROJECT["project"]["name"]:
            continue
        assert name in pinned, f"{requirement} has no pin; run `make pins`"
        assert requirement.specifier.contains(pinned[name]), f"{requirement}, but {name} {pinned[name]}"


def test_pins_are_names_and_versions_alone() -> None:
    """No index, no hash, no local version: which wheel of a release is right differs by index."""
    for line in PINS:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*( ; [a-z_0-9.'=<>!() ]+)?", line, re.I), line
    assert len(set(PINS)) == len(PINS)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_installs_by_the_pins() -> None:
    """Also what builds the package: old releases of pip read one variable, and new ones the other."""
    own = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKEOVERRIDES")}
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", "demo", "test"],
        cwd=ROOT,
        env=own,  # without what a make that runs the tests was given
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    installs = [line for line in done.stdout.splitlines() if " pip install " in line]
    assert len(installs) >= 3
    for line in installs:
        assert "PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt " in line
