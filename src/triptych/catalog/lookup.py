"""What all catalogues share: finding an entry by name, and telling a name from a path."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

from triptych.spec.base import SpecError
from triptych.spec.paths import existing, not_found

DATA = Path(__file__).parent / "data"

_FILE_SUFFIXES = (".json", ".yaml", ".yml")
_FEW = 20
"""Up to so many names are all listed in an error; of more, the close ones."""


def find(
    name: str,
    entries: Mapping[str, str],
    *,
    kind: str,
    field: str,
    file: str | Path | None,
) -> str | Path:
    """The entry that `name` means, or else the path that it is. A name comes before a path.

    Args:
        name: what the user wrote; case does not count.
        entries: names and aliases in lower case -> the entry's name.
        kind: what the catalogue holds, for errors.
        field: where the name was written, for errors.
        file: the file in which it was written, for errors, and where a relative path counts from.

    Raises:
        SpecError: it is neither an entry nor an existing path.
    """
    entry = entries.get(name.strip().lower())
    if entry is not None:
        return entry
    path = existing(name, file)
    if path is not None:
        return path
    if Path(name).suffix.lower() in _FILE_SUFFIXES or _is_path(name):
        raise SpecError(field, f"{name}: {not_found(name, file)}", file=file)
    raise SpecError(field, f"{name!r} is no known {kind}; {_mend(name, entries)}", file=file)


def path_of(name: str, entries: Mapping[str, str], file: str | Path | None) -> Path | None:
    """The path that `find` would give; None: the name means an entry, or nothing."""
    return None if name.strip().lower() in entries else existing(name, file)


def _is_path(name: str) -> bool:
    """Whether a name was meant as a path: `owner/model` is how a hub names a model."""
    text = name.strip()
    return text.startswith(("/", "./", "../", "~")) or text.endswith("/") or text.count("/") > 1


def _mend(name: str, entries: Mapping[str, str]) -> str:
    names = list(dict.fromkeys(entries.values()))
    if len(names) <= _FEW:
        return f"use one of {', '.join(names)}, or a file"
    wanted = name.strip().lower()
    near = difflib.get_close_matches(wanted, entries, n=5)
    near += [entry for entry in entries if wanted and wanted in entry][:5]
    if near:
        return f"did you mean {', '.join(dict.fromkeys(entries[match] for match in near))}?"
    return "use a name that `triptych models` lists, or a file"
