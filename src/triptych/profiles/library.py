"""Profiles by name: those that are shipped, those that the user measured, and others' files and folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from triptych.profiles.parquet import read_profile
from triptych.profiles.readers.aiconfigurator import (
    installed_aiconfigurator,
    is_aiconfigurator,
    read_aiconfigurator,
    read_installed,
)
from triptych.profiles.readers.nccl import is_collectives, read_nccl
from triptych.profiles.readers.source import Source, read_header
from triptych.profiles.readers.splitwise import is_splitwise, read_splitwise
from triptych.profiles.readers.vidur import is_vidur, read_vidur
from triptych.profiles.readers.vllm import is_vllm, read_vllm
from triptych.profiles.shapes import check_shape_of
from triptych.profiles.table import Profile
from triptych.spec.base import SpecError, did_you_mean
from triptych.spec.model import Model
from triptych.spec.paths import existing, not_found

FOLDER = "TRIPTYCH_PROFILES"
"""Environment variable: where the user's profiles are; ~/.cache/triptych/profiles if it is not set."""
_FORMATS = (
    "a profile that `triptych profile` wrote, a layer profile of vLLM (meta.yaml and tp1, tp2, ...), Parquet "
    "files of aiconfigurator, CSV files of Vidur, splitwise-sim or NCCL"
)


def user_folder() -> Path:
    """Where profiles are that the user measured."""
    return Path(os.environ.get(FOLDER) or Path.home() / ".cache" / "triptych" / "profiles")


def profiles() -> list[Profile]:
    """The profiles that are shipped and those in the user's folder, by name: that of the file.

    Raises:
        SpecError: the file, and column and row, that cannot be read.
    """
    return [_own(path) for _, path in sorted(_named().items())]


def load_profile(
    name: str | Path,
    field: str = "profile",
    file: str | Path | None = None,
    *,
    model: Model | str | None = None,
    device: str | None = None,
) -> Profile:
    """A profile by name, or of a file or folder, whose format is told by what is in it.

    Args:
        name: what `triptych profile list` shows; a name of an installed `aiconfigurator-core`
            (`aiconfigurator-h100_sxm-vllm-0.24.0`); or a path, from the folder of `file` or else from the
            working directory.
        field: where the name was written, for errors.
        file: the file in which it was written, for errors and paths.
        model: of the deployment: profiles that tell a shape are held to its own, and rows of foreign files
            named after it.
        device: likewise, for files that are of several devices, or of none.

    Raises:
        SpecError: there is no such profile, its format is not known, or the file, column and row that is
            wrong.
    """
    wanted = str(name).strip()
    named = _named()
    known = {entry.lower(): path for entry, path in named.items()}
    if wanted.lower() in known:
        return _of_model(_own(known[wanted.lower()]), known[wanted.lower()], model)
    path = existing(wanted, file)
    if path is not None:
        return _read(path, field, file, model, device)
    installed = installed_aiconfigurator()
    if wanted in installed:
        return read_installed(wanted)
    if os.sep in wanted or Path(wanted).suffix in (".parquet", ".csv"):
        raise SpecError(field, f"{wanted}: {not_found(wanted, file)}", file=file)
    near = did_you_mean(wanted, [*named, *installed])
    mend = near or "use a name that `triptych profile list` shows, a file or a folder"
    raise SpecError(field, f"{wanted!r} is no known profile; {mend}", file=file)


def files_of(name: str | Path, file: str | Path | None = None) -> tuple[Path, ...]:
    """The files and folders that `load_profile` would read; none if there is no such profile."""
    wanted = str(name).strip()
    known = {entry.lower(): path for entry, path in _named().items()}
    path = known.get(wanted.lower()) or existing(wanted, file)
    return installed_aiconfigurator().get(wanted, ()) if path is None else (path,)


def path_of(name: str, file: str | Path | None = None) -> Path | None:
    """The file or folder that a profile is named by; None if the library knows the name, or nobody does."""
    wanted = name.strip()
    return None if wanted.lower() in map(str.lower, _named()) else existing(wanted, file)


def _named() -> dict[str, Path]:
    """Name -> file of our own profiles; a user's comes before a shipped one of the same name."""
    shipped = Path(__file__).parents[1] / "catalog" / "data" / "profiles"
    files = [path for folder in (shipped, user_folder()) for path in sorted(folder.glob("*.parquet"))]
    return {path.stem: path for path in files}


def _own(path: Path) -> Profile:
    profile = read_profile(path)
    return Profile(profile.info.model_copy(update={"name": path.stem}), profile.columns)


@dataclass(frozen=True)
class _Format:
    """How a foreign file or folder is told, and read for a model and a device."""

    fits: Callable[[Path], bool]
    read: Callable[[Path, Model | str | None, str | None], Profile]


def _csv(path: Path, fits: Callable[[Source], bool]) -> bool:
    """Whether a CSV file, or any directly in a folder, has the columns of a format."""
    files = sorted(path.glob("*.csv")) if path.is_dir() else [path] if path.suffix == ".csv" else []
    return any(fits(read_header(each)) for each in files)


_FOREIGN: Mapping[str, _Format] = {
    "vllm": _Format(
        is_vllm, lambda path, model, device: _of_device(read_vllm(path, model=model), path, device)
    ),
    "aiconfigurator": _Format(
        lambda path: is_aiconfigurator(path) or path.name.endswith("_perf.parquet"),
        lambda path, model, device: _of_device(read_aiconfigurator(path), path, device),
    ),
    "vidur": _Format(
        lambda path: _csv(path, is_vidur),
        lambda path, model, device: read_vidur(path, model=model, device=device),
    ),
    "splitwise": _Format(
        lambda path: path.is_file() and _csv(path, is_splitwise),
        lambda path, model, device: read_splitwise(path, device=device),
    ),
    "nccl": _Format(
        lambda path: _csv(path, is_collectives),
        lambda path, model, device: read_nccl(path, device=device),
    ),
}


def _read(
    path: Path, field: str, file: str | Path | None, model: Model | str | None, device: str | None
) -> Profile:
    for each in _FOREIGN.values():
        if each.fits(path):
            return each.read(path, model, device)
    if path.suffix == ".parquet":
        return _of_model(read_profile(path), path, model)
    raise SpecError(field, f"{path}: none of the known formats; give {_FORMATS}", file=file)


def _of_model(profile: Profile, path: Path, model: Model | str | None) -> Profile:
    """The profile, if what it has under the name of the model is of its shape."""
    if isinstance(model, Model):
        check_shape_of(profile, model, path)
    return profile


def _of_device(profile: Profile, path: Path, device: str | None) -> Profile:
    """The profile, if it is of the device that was asked for."""
    if device is not None and profile.info.device.lower() != device.lower():
        problem = f"is of {profile.info.device}, not of {device}; name a profile of that device"
        raise SpecError("device", problem, file=path)
    return profile
