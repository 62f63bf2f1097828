"""Wheels for a machine that has torch and transformers but reaches no index: what else Triptych needs.

    python benchmarks/gpu_wheels.py --to DIR [--python 3.12] [--more NAME ...]

Big packages that torch's users mostly have (NumPy, PyArrow, SciPy) are left out; `--more pyarrow scipy` takes
them along. `install` lays out there what the machine lacks, and replaces nothing that it has.
"""

from __future__ import annotations

import argparse
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    *("pydantic", "pyyaml", "msgspec", "psutil", "pyzmq", "typer", "rich"),
    *(
        "fastapi",
        "starlette",
        "uvicorn",
        "httptools",
        "uvloop",
        "jinja2",
        "prometheus-client",
        "pillow",
        "httpx",
    ),
    *("aiohttp", "pytest", "pytest-xdist", "hypothesis"),
)
GLIBC = ("2_28", "2_27", "2_17", "2_12", "2_5")
"""Of manylinux tags: an index finds each only under its own name."""


def main() -> int:
    """Downloads, and says how much it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--to", type=Path, required=True, metavar="DIR", help="folder, emptied of wheels before"
    )
    parser.add_argument("--python", help="version of the machine's; that of this one if not given")
    parser.add_argument("--more", nargs="*", default=[], metavar="NAME", help="further packages")
    options = parser.parse_args()
    folder: Path = options.to
    for wheel in folder.glob("*.whl"):  # of two versions none could be installed
        wheel.unlink()
    own = ".".join(platform.python_version_tuple()[:2])
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--dest", str(folder), "--only-binary=:all:", "--implementation", "cp"]
    command += ["--python-version", options.python or own]
    for glibc in GLIBC:
        command += ["--platform", f"manylinux_{glibc}_x86_64"]
    for name in ("2014", "2010", "1"):
        command += ["--platform", f"manylinux{name}_x86_64"]
    if code := subprocess.run([*command, *PACKAGES, *options.more], check=False).returncode:
        return code
    wheels = sorted(folder.glob("*.whl"), key=lambda wheel: -wheel.stat().st_size)
    total = sum(wheel.stat().st_size for wheel in wheels)
    largest = ", ".join(f"{name_of(wheel)} {wheel.stat().st_size / 1e6:.1f}" for wheel in wheels[:4])
    about = f"{len(wheels)} wheels for Python {options.python or own} in {folder}"
    print(f"{about}: {total / 1e6:.1f} MB, the largest {largest}")
    return 0


def install(folder: Path, into: Path) -> list[str]:
    """Lays wheels out whose package this Python lacks.

    Args:
        folder: where the wheels are.
        into: folder for `sys.path`.

    Returns:
        The packages that were.

    Raises:
        CalledProcessError: pip refuses them; it has said why.
    """
    wanted = [wheel for wheel in sorted(folder.glob("*.whl")) if not _is_here(name_of(wheel))]
    if wanted:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += [
            "--no-index",
            "--no-deps",
            "--no-compile",
            "--no-cache-dir",
            "--root-user-action",
            "ignore",
        ]
        subprocess.run([*command, "--upgrade", "--target", str(into), *map(str, wanted)], check=True)
    return [name_of(wheel) for wheel in wanted]


def name_of(wheel: Path) -> str:
    """Of the package in a wheel, as indexes write it."""
    return re.sub(r"[-_.]+", "-", wheel.name.partition("-")[0]).lower()


def _is_here(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


if __name__ == "__main__":
    sys.exit(main())
