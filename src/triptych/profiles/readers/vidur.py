"""Profiles that Vidur's profiler writes: CSV files of operators (mlp, attention) and collectives, in ms.

`size` of collectives is in bytes: sizes are those of 1,024, 5,120, 9,216, ... half-precision elements times
2, and all-reduces of the largest over 2, 4 and 8 A100 move 156, 167 and 174 GB/s over links of 300 GB/s;
twice as much would be more than the links carry.

The KV write is measured beside attention, at its sizes, and takes 42 us for a prompt of 64 tokens but 4 us
for 64 decodes: it is no function of the tokens alone and counts as a part of attention. `rope and KV write`
is then the rotation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych import catalog
from triptych.profiles.check import check_profile, check_shape, check_speed, refuse
from triptych.profiles.readers.duplicates import averaged
from triptych.profiles.readers.names import device_of, slug
from triptych.profiles.readers.source import Source, read_csv
from triptych.profiles.table import Profile, ProfileInfo, joined, profile_of
from triptych.spec.base import SpecError
from triptych.spec.device import Device
from triptych.spec.model import Model

_MLP = {
    "emb": "embedding",
    "input_layernorm": "norm",
    "post_attention_layernorm": "norm",
    "attn_pre_proj": "qkv",
    "attn_rope": "rope and KV write",
    "attn_post_proj": "attention output",
    "mlp_up_proj": "mlp up",
    "mlp_act": "mlp activation",
    "mlp_down_proj": "mlp down",
    "add": "residual add",
}
"""Operator of `mlp.csv` -> ours. Both norms are rows of one operator, and are averaged."""
_COLLECTIVES = {"all_reduce": "all-reduce", "send_recv": "send"}

_PADDING = 1.05
"""Vidur's vocabularies are padded to a multiple of a power of two (32,768 for 32,000)."""
_NOTES = "Attention includes the KV write. Collectives over several nodes are named so."


def is_vidur(source: Source) -> bool:
    """Whether a table has the columns of such a file."""
    return any(name.startswith("time_stats.") for name in source.columns)


def read_vidur(path: str | Path, *, model: Model | str | None = None, device: str | None = None) -> Profile:
    """Operators and collectives of Vidur CSV files.

    Args:
        path: a folder of `mlp.csv`, attention, `all_reduce.csv` and `send_recv.csv`, each told by its
            columns, or one such file.
        model: whose operators they are; None: the first of the catalogue of the shape that the files have.
        device: a name of the catalogue; None: whichever a folder on the path is named after, as Vidur's are.

    Returns:
        Operators named as `cost` names them, and `all-reduce`, `send`; over nodes `all-reduce over 2 nodes`.

    Raises:
        SpecError: the file, column and row that is missing or cannot be right, or that model or device are
            not known.
    """
    given = Path(path)
    files = [given] if given.is_file() else sorted(given.glob("*.csv"))
    sources = [source for source in map(read_csv, files) if is_vidur(source)]
    if not sources:
        raise SpecError("", "holds no CSV file with columns time_stats.*; use another folder", file=given)
    facts = catalog.device(device or _device(given))
    shaped = [source for source in sources if "n_embd" in source]
    shape = _model(shaped, model) if shaped else None
    info = ProfileInfo(
        name=slug(facts.name, shape.name if shape else "", "vidur"),
        device=facts.name,
        source="profiler of microsoft/vidur, MIT",
        notes=_NOTES,
    )
    parts = []
    for source in sources:
        if "collective" in source:
            part = _collectives(source, facts, info)
        elif shape is not None and "time_stats.attn_decode.mean" in source:
            part = _attention(source, shape, facts, info)
        elif shape is not None and "num_tokens" in source:
            part = _mlp(source, shape, facts, info)
        else:
            problem = "is neither mlp, attention nor a collective: it has no num_tokens; remove it"
            raise SpecError("", problem, file=source.file)
        check_profile(part, source.file)
        parts.append(part)
    return averaged(joined(info, parts))


def _mlp(source: Source, shape: Model, device: Device, info: ProfileInfo) -> Profile:
    source.need(("num_tokens", "num_tensor_parallel_workers", *(_column(name, "mean") for name in _MLP)))
    text = shape.text
    tokens, tensor = source.counts("num_tokens"), _tensor(source)
    refuse(tokens == 0, "num_tokens", tokens, "is nothing to measure", source.file)
    keys = 2 * text.kv_heads * text.head_dim
    inner = (2 if text.gated_mlp else 1) * text.intermediate
    elements = {
        "attn_pre_proj": text.hidden * (text.heads * text.head_dim + keys),
        "attn_post_proj": text.heads * text.head_dim * text.hidden,
        "mlp_up_proj": text.hidden * inner,
        "mlp_down_proj": text.intermediate * text.hidden,
    }
    parts = []
    for name, operator in _MLP.items():
        if name in elements:
            ideal = 2.0 * elements[name] / tensor * tokens / device.flops["bf16"]
            mean = _column(name, "mean")
            check_speed(mean, source.numbers(mean), "ms", ideal, source.file)
        columns = {
            "operator": np.full(len(source), operator, dtype=object),
            "model": shape.name,
            "precision": "fp16",
            "kv_precision": "fp16",
            "tensor": tensor,
            "units": tokens,
            **_times(source, name),
        }
        parts.append(profile_of(info, columns))
    return joined(info, parts)


def _attention(source: Source, shape: Model, device: Device, info: ProfileInfo) -> Profile:
    source.need(("batch_size", "prefill_chunk_size", "kv_cache_size", "is_prefill"))
    text = shape.text
    batch, chunk = source.counts("batch_size"), source.counts("prefill_chunk_size")
    history, prefill = source.counts("kv_cache_size"), source.texts("is_prefill") == "True"
    refuse(prefill & (batch != 1), "batch_size", batch, "prompts at once are no single chunk", source.file)
    refuse(prefill & (chunk == 0), "prefill_chunk_size", chunk, "is no prompt", source.file)
    refuse(~prefill & (chunk > 0), "is_prefill", prefill, "is not what prefill_chunk_size says", source.file)
    tensor = _tensor(source)
    parts = []
    for name, mask in (("attn_prefill", prefill), ("attn_decode", ~prefill)):
        rows = source.where(mask)
        if not len(rows):
            continue
        pairs = chunk[mask] * (history[mask] + 0.5 * (chunk[mask] + 1.0))
        ideal = 4.0 * text.heads * text.head_dim / tensor[mask] * pairs / device.flops["bf16"]
        mean = _column(name, "mean")
        # In the file's numbering of rows, which the mask would lose.
        every = np.zeros(len(source))
        every[mask] = ideal
        check_speed(mean, source.numbers(mean), "ms", every, source.file)
        _check_means(source, (name, "attn_kv_cache_save"))
        own, write = _times(rows, name), _times(rows, "attn_kv_cache_save")
        decodes = {"decodes": batch[mask], "decode_kv": history[mask]}
        prompt = {"units": chunk[mask], "history": history[mask]}
        columns = {
            "operator": np.full(len(rows), name.replace("attn_", "") + " attention", dtype=object),
            "model": shape.name,
            "precision": "fp16",
            "kv_precision": "fp16",
            "tensor": tensor[mask],
            **(prompt if name == "attn_prefill" else decodes),
            "seconds": own["seconds"] + write["seconds"],
            # Of a sum of two that were measured one after the other.
            "deviation": np.hypot(own["deviation"], write["deviation"]),
        }
        parts.append(profile_of(info, columns))
    return joined(info, parts)


def _collectives(source: Source, device: Device, info: ProfileInfo) -> Profile:
    source.need(("collective", "num_workers", "devices_per_node", "size"))
    names = source.texts("collective")
    unknown = ~np.isin(names.astype(str), list(_COLLECTIVES))
    refuse(unknown, "collective", names, f"is none of {', '.join(_COLLECTIVES)}", source.file)
    members, together = source.counts("num_workers"), source.counts("devices_per_node")
    size = source.counts("size")
    refuse(members < 2, "num_workers", members, "is no group of devices", source.file)
    refuse(together == 0, "devices_per_node", together, "is no device", source.file)
    name = source.only("collective")
    nodes = -(-members // together)
    ways = 2.0 * (members - 1) / members if name == "all_reduce" else np.ones(len(source))
    ideal = np.asarray(ways * size / device.link.bandwidth)
    check_speed(_column(name, "mean"), source.numbers(_column(name, "mean")), "ms", ideal, source.file)
    operators = [
        _COLLECTIVES[name] + (f" over {count} nodes" if count > 1 else "") for count in nodes.tolist()
    ]
    columns = {
        "operator": np.array(operators, dtype=object),
        "precision": "fp16",
        "members": members,
        "bytes": size,
        **_times(source, name),
    }
    return profile_of(info, columns)


def _check_means(source: Source, names: Sequence[str]) -> None:
    """Means of these operators are times, in the file's own numbering of rows.

    Raises:
        SpecError: the first that is none.
    """
    for name in names:
        source.seconds(_column(name, "mean"), "ms")


def _times(source: Source, name: str) -> dict[str, NDArray[Any]]:
    """What the statistics of one operator come to in our columns."""
    times = {"seconds": source.seconds(_column(name, "mean"), "ms")}
    for ours, theirs in (("deviation", "std"), ("median", "median")):
        column = _column(name, theirs)
        times[ours] = source.seconds(column, "ms") if column in source else np.full(len(source), np.nan)
    return times


def _column(name: str, statistic: str) -> str:
    return f"time_stats.{name}.{statistic}"


def _tensor(source: Source) -> NDArray[np.int64]:
    tensor = source.counts("num_tensor_parallel_workers")
    refuse(tensor == 0, "num_tensor_parallel_workers", tensor, "is no number of shards", source.file)
    return tensor


def _model(sources: Sequence[Source], wanted: Model | str | None) -> Model:
    """The model of these shapes, or the one that is wanted, if it has them."""
    if wanted is None:
        for candidate in catalog.model_names():
            shape = catalog.model(candidate)
            if all(_is_of(source, shape) for source in sources):
                return shape
    shape = wanted if isinstance(wanted, Model) else catalog.model(wanted or _closest(sources[0]))
    for source in sources:
        for column, expected in _shape(shape).items():
            if column in source:
                check_shape(column, source.counts(column), np.asarray(expected), shape.name, source.file)
        if "vocab_size" in source:
            vocab = source.counts("vocab_size")
            wrong = (vocab < shape.text.vocab) | (vocab > _PADDING * shape.text.vocab)
            problem = f"is not that of {shape.name}, {shape.text.vocab}"
            refuse(wrong, "vocab_size", vocab, problem, source.file)
    return shape


def _is_of(source: Source, shape: Model) -> bool:
    try:
        sizes = {name: source.counts(name) for name in (*_shape(shape), "vocab_size") if name in source}
    except SpecError:
        return False
    vocab = sizes.pop("vocab_size", np.array([shape.text.vocab]))
    padded = (vocab >= shape.text.vocab) & (vocab <= _PADDING * shape.text.vocab)
    wanted = _shape(shape)
    return bool(padded.all()) and all((values == wanted[name]).all() for name, values in sizes.items())


def _shape(shape: Model) -> dict[str, int]:
    """Column -> what it must hold; `mlp.csv` and attention name heads differently."""
    text = shape.text
    return {
        "n_head": text.heads,
        "n_q_head": text.heads,
        "n_kv_head": text.kv_heads,
        "n_embd": text.hidden,
        "n_expanded_embd": text.intermediate,
    }


def _closest(source: Source) -> str:
    """A model to compare with where none fits: one as wide as the first row."""
    source.need(("n_embd",))
    width = int(source.counts("n_embd")[0])
    return min(catalog.model_names(), key=lambda name: abs(catalog.model(name).text.hidden - width))


def _device(path: Path) -> str:
    for part in reversed(path.absolute().parts):
        try:
            return device_of(part.split("_")[0], field="", file=path)
        except SpecError:
            continue
    raise SpecError("device", "no folder on the path is named after a device; give the device", file=path)
