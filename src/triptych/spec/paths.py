"""Paths in declared files: a relative one counts from the folder of the file in which it is written.

Where nothing is there, it counts from the working directory.
"""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where what can be worked out or measured again is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "triptych"


def existing(name: str, file: str | Path | None = None) -> Path | None:
    """The path that a name stands for; None: nothing is there.

    Args:
        name: as it was written; `~` is the home directory.
        file: the file in which it was written; None: it counts from the working directory.
    """
    if not name.strip():
        return None
    for folder in _folders(file):
        try:
            path = folder / Path(name).expanduser()
            if path.exists():
                return path
        except (OSError, RuntimeError):  # a name that is too long, or the home of nobody
            continue
    return None


def not_found(name: str, file: str | Path | None = None) -> str:
    """What to say of a name that `existing` finds nothing for: where it was looked for, and the fix."""
    if Path(name).is_absolute() or name.startswith("~"):
        return "no such file or folder; correct the path"
    places = list(dict.fromkeys(str(folder.resolve()) for folder in _folders(file)))
    looked = f", neither in {places[0]} nor in {places[1]}" if len(places) > 1 else f" in {places[0]}"
    return f"no such file or folder{looked}; correct the path"


def everywhere(path: Path) -> str:
    """The path as it is true from any folder; a link at its end keeps its own name."""
    return str(path.parent.resolve() / path.name)


def _folders(file: str | Path | None) -> list[Path]:
    return [Path()] if file is None else [Path(file).parent, Path()]
