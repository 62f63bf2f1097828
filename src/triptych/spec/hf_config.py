"""Reads a Hugging Face `config.json` into a `Model`.

What each family's fields mean stands in `hf_families/`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from triptych.spec.base import SpecError
from triptych.spec.hf_families import FAMILIES, VisionFamily
from triptych.spec.hf_fields import Fields
from triptych.spec.model import Model, TextModel
from triptych.spec.vision import VisionModel

PREPROCESSOR = "preprocessor_config.json"


def model_from_path(path: str | Path) -> Model:
    """The model of a `config.json`, or of a checkpoint folder that holds one.

    The area limits of images are read from the `preprocessor_config.json` beside it, if any.
    The model takes the name of the folder (of the file, where that is not called config.json).

    Raises:
        SpecError: no such file, not JSON, or not a model that can be read.
    """
    given = Path(path)
    file = given / "config.json" if given.is_dir() else given
    config = read_json(file)
    beside = file.with_name(PREPROCESSOR)
    preprocessor = read_json(beside) if beside.is_file() else None
    name = file.resolve().parent.name if file.name == "config.json" else file.stem
    return model_from_config(config, name, file, preprocessor=preprocessor)


def model_from_config(
    config: Mapping[str, Any],
    name: str,
    file: str | Path | None = None,
    *,
    preprocessor: Mapping[str, Any] | None = None,
) -> Model:
    """The model that the fields of a `config.json` describe.

    Args:
        config: the fields.
        name: what to call the model.
        file: named in errors, and as the model's source.
        preprocessor: the fields of `preprocessor_config.json`, for the area limits of images;
            without it the limits that the family was published with hold.

    Raises:
        SpecError: a family that is not read, or a field that is missing or makes no sense.
    """
    fields = Fields(config, file=file)
    model_type = config.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        found = "missing" if model_type is None else f"{model_type!r} is not read"
        raise fields.wrong("model_type", f"{found}; use a model of {', '.join(sorted(FAMILIES))}")
    language = _language_fields(fields) if family.vision else fields
    text = TextModel.parse(family.text(language), file=file)
    vision = None
    if family.vision is not None:
        vision = _vision(family.vision, fields, preprocessor, file)
        if vision.out_hidden != text.hidden:
            raise fields.wrong(
                "vision_config",
                f"the tower's embeddings are {vision.out_hidden} wide and the language model is "
                f"{text.hidden}; make them equal",
            )
    source = str(file) if file is not None else ""
    return Model(name=name, family=str(model_type), text=text, vision=vision, source=source)


def read_json(file: str | Path) -> dict[str, Any]:
    """The fields of a JSON file.

    Raises:
        SpecError: the file is missing, unreadable or no JSON object.
    """
    try:
        fields = json.loads(Path(file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError("", "no such file", file=file) from None
    except OSError as error:
        raise SpecError("", f"cannot be read: {error.strerror}", file=file) from None
    except UnicodeDecodeError:
        raise SpecError("", "cannot be read: not a UTF-8 text file", file=file) from None
    except json.JSONDecodeError as error:
        raise SpecError(f"line {error.lineno}", f"not valid JSON: {error.msg}", file=file) from None
    except RecursionError:
        raise SpecError("", "not valid JSON: nested too deeply", file=file) from None
    except ValueError:
        raise SpecError("", "not valid JSON: a number has too many digits; correct it", file=file) from None
    if not isinstance(fields, dict):
        found = type(fields).__name__
        raise SpecError("", f"expected a JSON object of fields, found {found}", file=file)
    return fields


def _language_fields(fields: Fields) -> Fields:
    """The language model's fields, which lie at the top level or, in newer files, in `text_config`.

    Whether the head is tied belongs to the whole model, so the top level says it where both do.
    """
    if not fields.gives("text_config"):
        return fields
    inner = fields.nested("text_config").with_defaults(fields)
    return inner.overridden(fields, "tie_word_embeddings")


def _vision(
    family: VisionFamily,
    fields: Fields,
    preprocessor: Mapping[str, Any] | None,
    file: str | Path | None,
) -> VisionModel:
    beside = Path(file).with_name(PREPROCESSOR) if file is not None else PREPROCESSOR
    limits = Fields(preprocessor or {}, file=beside)
    # The processor takes the older names over the newer `size` where a file gives both.
    size = limits.nested("size", default={})
    smallest = size.count("shortest_edge", default=family.min_pixels)
    largest = size.count("longest_edge", default=family.max_pixels)
    values = {
        **family.tower(fields.nested("vision_config")),
        "min_pixels": limits.count("min_pixels", default=smallest),
        "max_pixels": limits.count("max_pixels", default=largest),
    }
    return VisionModel.parse(values, file=file)
