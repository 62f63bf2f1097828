"""What the readers of all families share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from triptych.spec.hf_families.context import max_context
from triptych.spec.hf_fields import Fields

Reader = Callable[[Fields], dict[str, Any]]

_WINDOWED = "sliding_attention"
_KINDS = {_WINDOWED, "full_attention"}


@dataclass(frozen=True, slots=True)
class VisionFamily:
    """How a family's vision tower is read."""

    tower: Reader
    """From `vision_config` to the fields of `VisionModel`, without the pixel limits."""
    min_pixels: int
    max_pixels: int
    """Area limits in the `preprocessor_config.json` that the family was published with."""


@dataclass(frozen=True, slots=True)
class Family:
    """How the models of one `model_type` are read."""

    text: Reader
    """To the fields of `TextModel`."""
    vision: VisionFamily | None = None


def rotary(fields: Fields, *, head_dim: int | None = None, tied: bool = False) -> dict[str, Any]:
    """What most families call by the same names.

    Args:
        fields: of the language model.
        head_dim: width of a head where the file does not say; None: the hidden width over the heads.
        tied: whether head and embedding are one where the file does not say.

    Raises:
        SpecError: a field is missing or makes no sense.
    """
    hidden, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    if fields.gives("head_dim") or head_dim is None:
        head_dim = hidden // heads
        if hidden % heads and not fields.gives("head_dim"):
            problem = f"must divide hidden_size ({hidden}); use a divisor of it"
            raise fields.wrong("num_attention_heads", problem)
    kv_heads = fields.count("num_key_value_heads", default=heads)
    if heads % kv_heads:
        problem = f"{kv_heads} does not divide num_attention_heads ({heads}); use a divisor of it"
        raise fields.wrong("num_key_value_heads", problem)
    return {
        "layers": layer_count(fields),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": fields.count("head_dim", default=head_dim),
        "intermediate": fields.count("intermediate_size"),
        "gated_mlp": True,
        "vocab": fields.count("vocab_size"),
        "tied_embeddings": fields.flag("tie_word_embeddings", default=tied),
        "max_context": max_context(fields),
    }


def attention_bias(fields: Fields, *, default: bool = False) -> dict[str, bool]:
    """`attention_bias`, which most families have of all four matrices."""
    return dict.fromkeys(("qkv_bias", "output_bias"), fields.flag("attention_bias", default=default))


def layer_count(fields: Fields) -> int:
    """Layers of the language model."""
    return fields.count("num_hidden_layers", most=100_000)


def routing(fields: Fields, *names: str, each: str = "num_experts_per_tok") -> dict[str, int]:
    """How many experts there are, by the first field of these names, and by the field `each` work on a token.

    Raises:
        SpecError: more work on a token than there are.
    """
    count, top_k = fields.count(*names), fields.count(each)
    if top_k > count:
        raise fields.wrong(each, f"{top_k} is more than {names[0]} ({count}); lower it")
    return {"count": count, "top_k": top_k}


def everywhere(fields: Fields, common: dict[str, Any], experts: str) -> dict[str, Any]:
    """Experts as wide as `intermediate_size` in all layers."""
    width, layers = common["intermediate"], common["layers"]
    return {**routing(fields, experts), "intermediate": width, "layers": layers}


def after_the_first(fields: Fields, *, dense: int) -> dict[str, Any] | None:
    """Experts in all layers but the first `first_k_dense_replace`, beside shared ones.

    `dense` says how many layers have none where the file does not.
    """
    layers = _after_the_first(fields, dense)
    shared = fields.whole("n_shared_experts", default=1)
    return beside_shared(fields, layers, shared, lambda: routing(fields, "n_routed_experts"))


def where_sparse(fields: Fields, *, dense: int, shared: int) -> dict[str, Any] | None:
    """Experts in the layers that `mlp_layer_types` calls sparse, else as `after_the_first` has them.

    `shared` says beside how many shared ones where the file does not.
    """
    kinds = fields.words("mlp_layer_types")
    layers = _after_the_first(fields, dense) if kinds is None else kinds.count("sparse")
    shared = fields.whole("num_shared_experts", default=shared)
    return beside_shared(fields, layers, shared, lambda: routing(fields, "num_experts", "num_local_experts"))


def beside_shared(
    fields: Fields, layers: int, shared: int, routed: Callable[[], dict[str, int]]
) -> dict[str, Any] | None:
    """Experts in some layers, if any, beside shared ones, all as wide as `moe_intermediate_size`, no gate."""
    if layers <= 0:
        return None
    width = fields.count("moe_intermediate_size")
    return {
        **routed(),
        "intermediate": width,
        "shared_intermediate": width * shared,
        "shared_gate": False,
        "layers": layers,
    }


def _after_the_first(fields: Fields, dense: int) -> int:
    return layer_count(fields) - fields.whole("first_k_dense_replace", default=dense)


def window(fields: Fields, *, default: int | None = None) -> int | None:
    """`sliding_window`: null means none, and `default` holds where the field is absent."""
    size = fields.count("sliding_window", default=0) or None
    return size if fields.gives("sliding_window") else default


def windows(fields: Fields, size: int | None, windowed: Callable[[int], bool]) -> dict[str, Any]:
    """Which layers attend to the last `size` tokens only, as `layer_types` says.

    Args:
        fields: of the language model.
        size: tokens; None: no layer has a window.
        windowed: whether a layer, counted from zero, has one where the file does not say.

    Raises:
        SpecError: there are layers with something other than attention.
    """
    layers = layer_count(fields)
    kinds = fields.words("layer_types")
    others = sorted(set(kinds or ()) - _KINDS)
    if others:
        raise fields.wrong("layer_types", f"{others[0]} is not modelled; choose another model")
    if size is None:
        return {}
    number = sum(windowed(layer) for layer in range(layers)) if kinds is None else kinds.count(_WINDOWED)
    if number == 0:
        return {}
    return {"sliding_window": size, "windowed_layers": number if number < layers else None}


def every_other_window(fields: Fields, *, default: int) -> dict[str, Any]:
    """A window in the first, third, ... layer, of `default` tokens where the file does not say."""
    return windows(fields, window(fields, default=default), lambda layer: layer % 2 == 0)


def all_but_each(fields: Fields, name: str, *, default: int) -> Callable[[int], bool]:
    """For `windows`: every n-th layer has none, where n is the field called `name`."""

    def windowed(layer: int) -> bool:
        return (layer + 1) % fields.count(name, default=default) != 0

    return windowed
