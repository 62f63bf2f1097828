"""Model shapes by name: facts of public `config.json` files, one file a model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from triptych.catalog.lookup import DATA, find, path_of
from triptych.spec.hf_config import model_from_config, model_from_path, read_json
from triptych.spec.model import Model

RANDOM = "random:"
"""Before a name: the model is served with random weights. Its shape is the same."""


def model(name: str, file: str | Path | None = None, *, field: str = "model") -> Model:
    """A model of the catalogue, or of a `config.json` or the folder that holds one.

    Catalogue names are those of the hub, with or without the organisation, in any case
    (`Llama-3-8B`, `Qwen/Qwen2.5-VL-7B-Instruct`). Tuned variants of the same shape are aliases:
    they may differ from the listed model in `max_context` alone.

    Args:
        name: a catalogue name or a path; after `random:` as without.
        file: the file in which the name was written, for errors; a relative path counts from its folder, or
            else from the working directory.
        field: where in it, for errors.

    Raises:
        SpecError: no such model or file, or a file that cannot be read.
    """
    found = find(name.removeprefix(RANDOM), _entries(), kind="model", field=field, file=file)
    return model_from_path(found) if isinstance(found, Path) else _model(found)


def config(name: str, *, field: str = "model", file: str | Path | None = None) -> Mapping[str, Any]:
    """The fields of the `config.json` that a name stands for.

    Args:
        name: a catalogue name, a `config.json`, or the folder that holds one.
        field: where the name was written, for errors.
        file: as of `model`.

    Raises:
        SpecError: there is none, or it cannot be read.
    """
    found = find(name, _entries(), kind="model", field=field, file=file)
    if isinstance(found, Path):
        return read_json(found / "config.json" if found.is_dir() else found)
    return read_json(DATA / "models" / f"{found}.json")


def model_path(name: str, file: str | Path | None = None) -> Path | None:
    """The file or folder that a name stands for; None: it is a catalogue name, or stands for nothing.

    Args:
        name: as of `model`.
        file: likewise.
    """
    return path_of(name.removeprefix(RANDOM), _entries(), file)


def model_names() -> tuple[str, ...]:
    """The models of the catalogue, by family."""
    return tuple(_index())


@cache
def _model(name: str) -> Model:
    config = read_json(DATA / "models" / f"{name}.json")
    source = f"https://huggingface.co/{_index()[name]['hub']}/blob/main/config.json"
    return model_from_config(config, name).model_copy(update={"source": source})


@cache
def _index() -> Mapping[str, Any]:
    """Name -> hub id, and aliases in the same organisation of the hub."""
    return read_json(DATA / "models" / "index.json")


@cache
def _entries() -> Mapping[str, str]:
    entries: dict[str, str] = {}
    for name, about in _index().items():
        organisation, _, published = about["hub"].partition("/")
        for alias in (name, published, *about.get("aliases", ())):
            entries.setdefault(alias.lower(), name)
            entries.setdefault(f"{organisation}/{alias}".lower(), name)
    return entries
