"""The compiled build: mypyc checks types as it compiles, and needs the packages that they come from."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import grimp
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HOOK: dict[str, Any] = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]


def test_the_build_has_every_package_whose_types_it_reads() -> None:
    untyped = {name for override in PROJECT["tool"]["mypy"]["overrides"] for name in override["module"]}
    packages = {
        Requirement(text).name
        for text in PROJECT["project"]["dependencies"]
        if f"{Requirement(text).name}.*" not in untyped
    }
    graph = grimp.build_graph("triptych", include_external_packages=True)
    compiled = {
        ".".join(file.relative_to(ROOT / "src").with_suffix("").parts)
        for pattern in HOOK["include"]
        for file in ROOT.glob(pattern.removeprefix("/"))
        if file.name != "__init__.py"
    }
    assert len(compiled) > 20
    read = {found for module in compiled for found in graph.find_upstream_modules(module)}
    needed = {name for name in packages if name.partition(".")[0] in read}
    assert {"numpy", "pydantic"} <= needed
    assert needed <= {Requirement(text).name for text in HOOK["dependencies"]}
