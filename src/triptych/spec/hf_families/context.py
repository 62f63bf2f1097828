"""How many tokens a model's positions reach, where rotary frequencies are scaled to go beyond training."""

from __future__ import annotations

from triptych.spec.hf_fields import Fields

_EXTENDED = {"yarn", "linear", "dynamic"}
"""Kinds of scaling whose factor extends what the model was trained for. Of the others (llama3, longrope) the
extended length is `max_position_embeddings`."""
_EXTENDED_ALREADY = ("gemma3",)
"""Beginnings of model types whose published `max_position_embeddings` is the extended one all the same."""
_TRAINED = "original_max_position_embeddings"


def max_context(fields: Fields) -> int:
    """Tokens of the longest sequence: the length in training times the factor of the scaling, if any.

    The length in training is `original_max_position_embeddings`, which the scaling or the file may give.
    Where neither does it is `max_position_embeddings`, which else may hold either length.
    Source: `_get_and_verify_max_len` of vLLM, which serves as many.

    Args:
        fields: of the language model.

    Raises:
        SpecError: a field makes no sense.
    """
    positions = fields.count("max_position_embeddings")
    if (fields.word("model_type") or "").startswith(_EXTENDED_ALREADY):
        return positions
    reach = []
    for rope in ropes(fields):
        if scaling(rope) in _EXTENDED:
            trained = rope.count(_TRAINED, default=fields.count(_TRAINED, default=positions))
            reach.append(int(trained * rope.factor("factor", default=1.0)))
    return max(reach, default=positions)


def ropes(fields: Fields) -> list[Fields]:
    """The scalings in a file: one, or one for each kind of layers."""
    name = "rope_parameters" if fields.gives("rope_parameters") else "rope_scaling"
    rope = fields.nested(name, default={})
    return [rope, *rope.mappings()]


def scaling(rope: Fields) -> str | None:
    """Its kind, which older files call `type`."""
    return rope.word("rope_type") or rope.word("type")
