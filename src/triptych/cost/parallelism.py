"""Which parallelism a model can be run under."""

from __future__ import annotations

from pathlib import Path

from triptych.spec.base import SpecError
from triptych.spec.deployment import Pool
from triptych.spec.model import Model


def check_parallelism(model: Model, pool: Pool, field: str, file: str | Path | None = None) -> None:
    """Checks a pool's parallelism against the model's shape.

    Raises:
        SpecError: the first degree that is not legal, with the legal values.
    """
    problem = _problem(model, pool)
    if problem is not None:
        degree, text = problem
        where = f"{field}.parallel.{degree}" if degree != "phases" else f"{field}.phases"
        raise SpecError(where, text, file=file)


def _problem(model: Model, pool: Pool) -> tuple[str, str] | None:
    """The field that is wrong and what is wrong with it."""
    if "encode" in pool.phases and model.vision is None:
        return "phases", f"{model.name} has no vision tower to encode with; remove encode"
    if pool.phases == ("encode",):
        return _encode_problem(pool) or _tensor_problem(model, pool)
    return _tensor_problem(model, pool) or _layer_problem(model, pool) or _rank_problem(model, pool)


def _encode_problem(pool: Pool) -> tuple[str, str] | None:
    for degree in ("pipeline", "data", "expert"):
        given = getattr(pool.parallel, degree)
        if given > 1:
            return degree, f"a pool that only encodes has {degree}: 1, not {given}; use instances"
    return None


def _tensor_problem(model: Model, pool: Pool) -> tuple[str, str] | None:
    text, tensor = model.text, pool.parallel.tensor
    heads = {}
    if pool.phases != ("encode",):
        heads["attention heads"] = text.heads
    if "encode" in pool.phases and model.vision is not None:
        heads["vision heads"] = model.vision.heads
    legal = [
        degree
        for degree in range(1, max(heads.values()) + 1)
        if all(count % degree == 0 for count in heads.values())
    ]
    if pool.phases != ("encode",):
        legal = [degree for degree in legal if _shares(text.kv_heads, degree)]
    if tensor in legal:
        return None
    counted = " and ".join(f"{count} {name}" for name, count in heads.items())
    if pool.phases != ("encode",) and text.kv_heads != text.heads:
        counted += f" and {text.kv_heads} KV heads"
    return "tensor", f"{tensor} does not divide the {counted}; use {_listing(legal)}"


def _shares(kv_heads: int, tensor: int) -> bool:
    """Whether KV heads can be dealt to, or copied over, so many devices."""
    return kv_heads % tensor == 0 or tensor % kv_heads == 0


def _layer_problem(model: Model, pool: Pool) -> tuple[str, str] | None:
    layers, pipeline = model.text.layers, pool.parallel.pipeline
    if layers % pipeline == 0:
        return None
    return "pipeline", f"{pipeline} does not divide the {layers} layers; use {_divisors(layers)}"


def _rank_problem(model: Model, pool: Pool) -> tuple[str, str] | None:
    parallel, experts = pool.parallel, model.text.experts
    if experts is None:
        if parallel.data > 1:
            mend = "use data: 1 and raise instances, which is the same for a dense model"
            return "data", f"{parallel.data} data ranks share experts, of which {model.name} has none; {mend}"
        if parallel.expert > 1:
            return "expert", f"{model.name} has no experts; use expert: 1"
        return None
    if parallel.data > 1 and parallel.pipeline > 1:
        return "data", f"{parallel.data} data ranks need pipeline: 1, not {parallel.pipeline}"
    ranks = parallel.tensor * parallel.data
    if ranks % parallel.expert or experts.count % parallel.expert:
        legal = [n for n in range(1, ranks + 1) if ranks % n == 0 and experts.count % n == 0]
        return "expert", (
            f"{parallel.expert} does not divide both tensor x data = {ranks} and the "
            f"{experts.count} experts; use {_listing(legal)}"
        )
    return None


def _divisors(number: int) -> str:
    return _listing([degree for degree in range(1, number + 1) if number % degree == 0])


def _listing(numbers: list[int]) -> str:
    """`1, 2 or 4`."""
    *first, last = map(str, numbers)
    return f"{', '.join(first)} or {last}" if first else last
