"""Layer profiles of vLLM as LLMServingSim measures and keeps them: one folder a device, model and format.

A folder holds `meta.yaml` and for each tensor parallelism `tp<N>` the files `dense.csv` (layer, tokens),
`per_sequence.csv` (layer, sequences), `attention.csv` and, of mixtures of experts, `moe.csv`. Times are
kernel times in us of one launch, that is of one layer. There is no communication and no host time.

`kv_prefill` is the history before the chunk, not the total: chunks of 2,048 are listed with a `kv_prefill`
of 0, 16, ... 1,024, which no total could be, and take longer the larger it is.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych import catalog
from triptych.profiles.check import check_profile, check_speed, refuse
from triptych.profiles.readers.duplicates import averaged
from triptych.profiles.readers.names import device_of, precisions_of, slug
from triptych.profiles.readers.skew import read_skew
from triptych.profiles.readers.source import Source, read_csv, read_mapping
from triptych.profiles.table import Profile, ProfileInfo, joined, profile_of
from triptych.spec.base import SpecError, shown
from triptych.spec.device import Device
from triptych.spec.model import Model, TextModel

_DENSE = {
    "embedding": "embedding",
    "layernorm": "norm+residual add",
    "qkv_proj": "qkv",
    "qk_norm": "qk norm",
    "rotary_emb": "rope and KV write",
    "o_proj": "attention output",
    "gate_up_proj": "mlp up",
    "act_fn": "mlp activation",
    "down_proj": "mlp down",
    "final_layernorm": "final norm",
}
"""Layer of `dense.csv` -> operator. vLLM's norm adds the residual; its attention writes the KV cache."""
_PER_SEQUENCE = {"lm_head": "head", "sampler": "sampler"}

_NOTES = (
    "Kernel times of one layer, without launches, communication and host. The norm adds the residual; the KV "
    "cache is written by attention, so that `rope and KV write` is the rotation alone. Norms, `qk norm` and "
    "sampler of tensor parallelism 2 are those of 1."
)


def is_vllm(path: str | Path) -> bool:
    """Whether a folder is laid out as such a profile."""
    folder = Path(path)
    return (folder / "meta.yaml").is_file() and any(folder.glob("tp*/dense.csv"))


def read_vllm(path: str | Path, *, model: Model | str | None = None) -> Profile:
    """A layer profile of vLLM.

    Args:
        path: the folder with `meta.yaml`.
        model: the model it must be of, but for its longest context; None: whichever `meta.yaml` names.

    Returns:
        Operators named as `cost` names them, `qk norm`, `attention` (prompts and decodes in one launch) and
        `experts` (a whole mixture, by tokens and experts touched). Rows that repeat are averaged.

    Raises:
        SpecError: the file, and column and row, that is missing or cannot be right.
    """
    folder = Path(path)
    about = folder / "meta.yaml"
    meta = read_mapping(about)
    shape = catalog.model(_text(meta, "model", about), about)
    if model is not None:
        wanted = model if isinstance(model, Model) else catalog.model(model)
        if not _same(wanted.text, shape.text):
            problem = f"is of {shape.name}, not of {wanted.name}; name a profile of that model"
            raise SpecError("model", problem, file=about)
        shape = wanted
    device = catalog.device(device_of(_text(meta, "hardware", about), field="hardware", file=about))
    _check_overrides(meta, shape, about)
    shards = sorted(folder.glob("tp*"), key=_degree)
    if not shards:
        raise SpecError("", "has no folder tp1, tp2, ... with dense.csv; use another folder", file=folder)
    info = _info(meta, shape, device, about, shards)
    return averaged(joined(info, [_shard(part, shape, device, info, meta, about) for part in shards]))


def _shard(
    folder: Path, shape: Model, device: Device, info: ProfileInfo, meta: dict[str, Any], about: Path
) -> Profile:
    """All files of one tensor parallelism."""
    tensor = _degree(folder)
    precision = precisions_of(np.array([_text(meta, "variant", about)], dtype=object))[0]
    flops = device.flops.get(precision, device.flops["bf16"])
    common = {
        "model": shape.name,
        "tensor": tensor,
        "precision": precision,
        "repeats": meta.get("measurement_iterations", 0),
    }
    text = shape.text
    tables = [
        _dense(read_csv(folder / "dense.csv"), text, tensor, flops),
        _per_sequence(read_csv(folder / "per_sequence.csv"), text, tensor, device),
        _attention(read_csv(folder / "attention.csv"), text, tensor, flops),
    ]
    if (folder / "moe.csv").is_file():
        tables.append(_experts(read_csv(folder / "moe.csv"), text))
    parts = []
    for name, columns in zip(("dense", "per_sequence", "attention", "moe"), tables, strict=False):
        part = profile_of(info, {**common, **columns})
        check_profile(part, folder / f"{name}.csv")
        parts.append(part)
    return joined(info, parts)


def _dense(source: Source, text: TextModel, tensor: int, flops: float) -> dict[str, Any]:
    source.need(("layer", "tokens", "time_us"))
    operators = _operators(source, _DENSE)
    tokens, seconds = source.counts("tokens"), source.seconds("time_us", "us")
    _refuse_zero(source, "tokens", tokens)
    queries, keys = text.heads * text.head_dim, text.kv_heads * text.head_dim
    inner = (2 if text.gated_mlp else 1) * text.intermediate
    elements = {
        "qkv": text.hidden * (queries + 2 * keys),
        "attention output": queries * text.hidden,
        "mlp up": text.hidden * inner,
        "mlp down": text.intermediate * text.hidden,
    }
    weights = np.array([elements.get(name, 0) for name in operators.tolist()]) / tensor
    check_speed("time_us", source.numbers("time_us"), "us", 2.0 * weights * tokens / flops, source.file)
    return {"operator": operators, "units": tokens, "seconds": seconds}


def _per_sequence(source: Source, text: TextModel, tensor: int, device: Device) -> dict[str, Any]:
    source.need(("layer", "sequences", "time_us"))
    operators = _operators(source, _PER_SEQUENCE)
    sequences, seconds = source.counts("sequences"), source.seconds("time_us", "us")
    _refuse_zero(source, "sequences", sequences)
    # The head is far larger than any cache: even for one sequence it is read from memory.
    weights = 2.0 * text.vocab * text.hidden / tensor
    ideal = np.where(operators == "head", weights / device.bandwidth, 0.0)
    check_speed("time_us", source.numbers("time_us"), "us", ideal, source.file)
    return {"operator": operators, "units": sequences, "seconds": seconds}


def _attention(source: Source, text: TextModel, tensor: int, flops: float) -> dict[str, Any]:
    source.need(("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"))
    chunk, history = source.counts("prefill_chunk"), source.counts("kv_prefill")
    decodes, kv = source.counts("n_decode"), source.counts("kv_decode")
    refuse((chunk == 0) & (decodes == 0), "n_decode", decodes, "and no chunk: nothing was run", source.file)
    refuse((decodes > 0) & (kv == 0), "kv_decode", kv, "is no KV for a decode to read", source.file)
    pairs = np.where(decodes == 0, chunk * history + 0.5 * chunk * (chunk + 1.0), 0.0)
    ideal = 4.0 * text.heads * text.head_dim / tensor * pairs / flops
    check_speed("time_us", source.numbers("time_us"), "us", ideal, source.file)
    return {
        "operator": np.full(len(source), "attention", dtype=object),
        "units": chunk,
        "history": np.where(chunk > 0, history, 0),
        "decodes": decodes,
        "decode_kv": np.where(decodes > 0, kv, 0),
        "seconds": source.seconds("time_us", "us"),
    }


def _experts(source: Source, text: TextModel) -> dict[str, Any]:
    source.need(("tokens", "activated_experts", "time_us"))
    touched, tokens = source.counts("activated_experts"), source.counts("tokens")
    experts = text.experts
    if experts is None:
        raise SpecError("", "is of a mixture of experts, and the model is none; remove it", file=source.file)
    few = f"is none of 1 to {experts.count} experts that the model has"
    refuse((touched < 1) | (touched > experts.count), "activated_experts", touched, few, source.file)
    _refuse_zero(source, "tokens", tokens)
    return {
        "operator": np.full(len(source), "experts", dtype=object),
        "experts": experts.count,
        "top_k": experts.top_k,
        "units": tokens,
        "touched": touched,
        "seconds": source.seconds("time_us", "us"),
    }


def _operators(source: Source, names: dict[str, str]) -> NDArray[np.object_]:
    layers = source.texts("layer")
    unknown = ~np.isin(layers.astype(str), list(names))
    refuse(unknown, "layer", layers, f"is none of {', '.join(names)}", source.file)
    return np.array([names[layer] for layer in layers.tolist()], dtype=object)


def _refuse_zero(source: Source, name: str, values: NDArray[np.int64]) -> None:
    refuse(values == 0, name, values, "is nothing to measure", source.file)


def _degree(folder: Path) -> int:
    match = re.fullmatch(r"tp(\d+)", folder.name)
    if match is None or not int(match[1]):
        raise SpecError("", "is no tensor parallelism; name it tp1, tp2, ...", file=folder)
    return int(match[1])


def _check_overrides(meta: dict[str, Any], shape: Model, about: Path) -> None:
    """The shard that was run is one of the model: the profiler overrides sizes with those of one shard."""
    effective = meta.get("engine_effective")
    given = effective.get("hf_overrides") if isinstance(effective, dict) else None
    if not isinstance(given, dict):
        return
    degrees = meta.get("tp_degrees")
    text = shape.text
    whole = {
        "num_attention_heads": text.heads,
        "num_key_value_heads": text.kv_heads,
        "intermediate_size": text.intermediate,
        "vocab_size": text.vocab,
    }
    heads = given.get("num_attention_heads", text.heads)
    tensor = text.heads // heads if isinstance(heads, int) and heads > 0 else 0
    if not tensor or text.heads % heads or (isinstance(degrees, list) and tensor not in degrees):
        problem = f"{shown(heads)} are no share of the {text.heads} of {shape.name}; name the model measured"
        raise SpecError("engine_effective.hf_overrides.num_attention_heads", problem, file=about)
    for name, size in whole.items():
        found = given.get(name, size)
        expected = max(1, size // tensor) if name == "num_key_value_heads" else -(-size // tensor)
        if name in given and found != expected:
            problem = (
                f"{shown(found)} is not that of {shape.name} under tensor parallelism {tensor}, {expected}; "
                f"name the model measured"
            )
            raise SpecError(f"engine_effective.hf_overrides.{name}", problem, file=about)


def _info(meta: dict[str, Any], shape: Model, device: Device, about: Path, shards: list[Path]) -> ProfileInfo:
    version = str(meta.get("vllm_version", ""))
    versions = {"vllm": version, "cuda": str(meta.get("cuda_version", ""))}
    return ProfileInfo(
        name=slug(device.name, shape.name, _text(meta, "variant", about), "vllm", version),
        device=device.name,
        source=f"vLLM {version}, measured with LLMServingSim (casys-kaist/LLMServingSim, MIT)",
        measured_at=str(meta.get("profiled_at", "")),
        versions={name: value for name, value in versions.items() if value},
        unequal={
            str(_degree(shard)): read_skew(shard).default
            for shard in shards
            if (shard / "skew_fit.csv").is_file()
        },
        notes=_NOTES,
    )


def _same(one: TextModel, other: TextModel) -> bool:
    """Whether two models run the same operators: tuned ones often differ in the longest context alone."""
    return one.model_copy(update={"max_context": other.max_context}) == other


def _text(meta: dict[str, Any], name: str, file: Path) -> str:
    value = meta.get(name)
    if not isinstance(value, str) or not value:
        raise SpecError(name, "must be text; say what was measured", file=file)
    return value
