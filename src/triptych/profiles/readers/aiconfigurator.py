"""Kernels of any model as aiconfigurator measures them inside engines: one Parquet file an operator, in ms.

Rows name no model but a shape. Those of `context_attention` are launches of one prompt or of several equal.

An installed `aiconfigurator-core` holds the same files, dealt to folders by kind of operator.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych import catalog
from triptych.profiles.check import check_profile, check_speed, refuse
from triptych.profiles.readers.duplicates import averaged
from triptych.profiles.readers.names import device_of, precisions_of, slug
from triptych.profiles.readers.nccl import NOTES, check_device, collectives, engine_first
from triptych.profiles.readers.source import Source, read_parquet
from triptych.profiles.table import Profile, ProfileInfo, joined, profile_of
from triptych.spec.base import SpecError, did_you_mean
from triptych.spec.device import Device

_KINDS = ("gemm", "attention", "moe", "comm")
"""Folders of an installed package whose operators are read."""
_NOTES = f"Kernels without launches and host. {NOTES} `experts` have balanced loads; other loads are named."


def is_aiconfigurator(path: str | Path) -> bool:
    """Whether a folder holds such files."""
    folder = Path(path)
    return folder.is_dir() and any((folder / name).is_file() for name in _READERS)


def read_aiconfigurator(path: str | Path) -> Profile:
    """Kernels of one device and engine version.

    Args:
        path: a folder of `gemm_perf.parquet`, `context_attention_perf.parquet`,
            `generation_attention_perf.parquet`, `moe_perf.parquet`, `custom_allreduce_perf.parquet`,
            `nccl_perf.parquet`, or one of these.

    Returns:
        `matmul`, `prefill attention`, `decode attention`, `experts` (with balanced loads; others are named
        `experts power_law_1.2`) and collectives. Experts have the whole width of one, and in `tensor` the
        number of shards.

    Raises:
        SpecError: the file, and column and row, that is missing or cannot be right.
    """
    given = Path(path)
    files = [given] if given.is_file() else [given / name for name in _READERS if (given / name).is_file()]
    if not files:
        problem = f"holds none of {', '.join(_READERS)}; use another folder"
        raise SpecError("", problem, file=given)
    return _read(files)


def installed_aiconfigurator() -> dict[str, tuple[Path, ...]]:
    """What an installed `aiconfigurator-core` holds: name -> its files.

    For each device, engine and version of its matrix products. Operators that were not measured under that
    version come from the newest before it; NCCL's from its newest.
    """
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        package = distribution("aiconfigurator-core")
    except PackageNotFoundError:
        return {}
    data = Path(str(package.locate_file("aiconfigurator_core/systems/data")))
    found: dict[str, tuple[Path, ...]] = {}
    for gemm in sorted(data.glob("*/gemm/*/*/gemm_perf.parquet")):
        system, _, engine, version, _ = gemm.relative_to(data).parts
        folders = [_newest(data / system / kind / engine, version) for kind in _KINDS]
        folders.append(_newest(data / system / "comm" / "nccl", None))
        files = [folder / name for folder in folders if folder for name in _READERS]
        found[slug("aiconfigurator", system, engine, version)] = tuple(
            file for file in files if file.is_file()
        )
    return found


def read_installed(name: str) -> Profile:
    """A profile of an installed `aiconfigurator-core`, by a name of `installed_aiconfigurator`.

    Raises:
        SpecError: there is none of that name, or a file, column or row cannot be right.
    """
    found = installed_aiconfigurator()
    if name not in found:
        raise SpecError("profile", f"{name!r} is not installed; {did_you_mean(name, found)}".rstrip("; "))
    profile = _read(found[name])
    return Profile(profile.info.model_copy(update={"name": name}), profile.columns)


def _read(files: Sequence[Path]) -> Profile:
    sources = [read_parquet(file) for file in files]
    first = sources[0]
    first.need(("device", "framework", "version"))
    device = catalog.device(device_of(first.only("device"), field="device, row 0", file=first.file))
    engine, version = first.only("framework").lower(), first.only("version")
    versions = {
        source.file.name.removesuffix("_perf.parquet"): ", ".join(sorted(set(source.texts("version"))))
        for source in sources
        if "version" in source
    }
    info = ProfileInfo(
        name=slug(device.name, "aiconfigurator", engine, version),
        device=device.name,
        source=f"{engine} {version}, ai-dynamo/aiconfigurator, Apache-2.0",
        versions=versions,
        notes=_NOTES,
    )
    parts = []
    for source in sources:
        reader = _READERS.get(source.file.name)
        if reader is None:
            raise SpecError("", f"is none of {', '.join(_READERS)}; use one of these", file=source.file)
        check_device(source, device)
        part = reader(source, device, info)
        if len(part):
            check_profile(part, source.file)
        parts.append(part)
    return averaged(engine_first(joined(info, parts)))


def _matmul(source: Source, device: Device, info: ProfileInfo) -> Profile:
    source.need(("gemm_dtype", "m", "n", "k", "latency"))
    m, n, k = (source.counts(name) for name in ("m", "n", "k"))
    for name, sizes in (("m", m), ("n", n), ("k", k)):
        refuse(sizes == 0, name, sizes, "is no size of a matrix", source.file)
    precision = precisions_of(source.texts("gemm_dtype"))
    ideal = 2.0 * m * n * k / _peak(precision, device)
    check_speed("latency", source.numbers("latency"), "ms", ideal, source.file)
    columns = {"inputs": k, "outputs": n, "units": m, "precision": precision}
    return _profile("matmul", columns, source, info)


def _prefill(source: Source, device: Device, info: ProfileInfo) -> Profile:
    """Launches of `batch_size` prompts of `isl` tokens each, after `step` of history."""
    source.need(("batch_size", "isl", "step", *_ATTENTION))
    batch, step = source.counts("batch_size"), source.counts("step")
    refuse(batch == 0, "batch_size", batch, "is nothing to measure", source.file)
    heads = _heads(source)
    length = source.counts("isl")
    seen = np.where(heads["window"] > 0, np.minimum(heads["window"], length + step), length + step)
    pairs = batch * length * np.minimum(seen, step + (length + 1) / 2)
    ideal = 4.0 * heads["heads"] * heads["head_dim"] * pairs / _peak(heads["precision"], device)
    check_speed("latency", source.numbers("latency"), "ms", ideal, source.file)
    columns = {**heads, "units": length, "history": step, "prompts": batch}
    return _profile("prefill attention", columns, source, info)


def _decode(source: Source, device: Device, info: ProfileInfo) -> Profile:
    """`step` tokens are in the cache, and `isl` (one) is added before it is read."""
    source.need(("batch_size", "isl", "step", *_ATTENTION))
    heads = _heads(source)
    decodes, kv = source.counts("batch_size"), source.counts("step") + source.counts("isl")
    refuse(decodes == 0, "batch_size", decodes, "is nothing to measure", source.file)
    seen = np.where(heads["window"] > 0, np.minimum(heads["window"], kv), kv)
    element = np.where(heads["kv_precision"] == "fp8", 1.0, 2.0)
    ideal = 2.0 * heads["kv_heads"] * heads["head_dim"] * element * decodes * seen / device.bandwidth
    # Caches hold what is small; what takes long comes from memory.
    ideal = np.where(ideal > 1e-3, ideal, 0.0)
    check_speed("latency", source.numbers("latency"), "ms", ideal, source.file)
    return _profile("decode attention", {**heads, "decodes": decodes, "decode_kv": kv}, source, info)


_ATTENTION = ("num_heads", "num_key_value_heads", "head_dim", "attn_dtype", "kv_cache_dtype", "latency")


def _heads(source: Source) -> dict[str, Any]:
    heads, kv_heads = source.counts("num_heads"), source.counts("num_key_value_heads")
    # Multi-head attention is written either way.
    kv_heads = np.where(kv_heads == 0, heads, kv_heads)
    return {
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": source.counts("head_dim"),
        "window": source.counts("window_size") if "window_size" in source else np.zeros_like(heads),
        "precision": precisions_of(source.texts("attn_dtype")),
        "kv_precision": precisions_of(source.texts("kv_cache_dtype")),
    }


def _experts(source: Source, device: Device, info: ProfileInfo) -> Profile:
    sizes = {
        "units": "num_tokens",
        "inputs": "hidden_size",
        "outputs": "inter_size",
        "top_k": "topk",
        "experts": "num_experts",
        "tensor": "moe_tp_size",
        "groups": "moe_ep_size",
    }
    source.need(("moe_dtype", "distribution", *sizes.values(), "latency"))
    columns: dict[str, Any] = {name: source.counts(given) for name, given in sizes.items()}
    for name, given in sizes.items():
        refuse(columns[name] == 0, given, columns[name], "is no size of a mixture of experts", source.file)
    columns["precision"] = precisions_of(source.texts("moe_dtype"))
    balanced = source.texts("distribution") == "balanced"
    # Two matrices at the least; gated experts have three.
    work = 4.0 * columns["inputs"] * columns["outputs"] * columns["units"] * columns["top_k"]
    whole = columns["tensor"] * columns["groups"] == 1
    ideal = np.where(whole, work / _peak(columns["precision"], device), 0.0)
    check_speed("latency", source.numbers("latency"), "ms", ideal, source.file)
    names = np.where(balanced, "experts", "experts " + source.texts("distribution"))
    return _profile(names, columns, source, info)


def _peak(precision: NDArray[np.object_], device: Device) -> NDArray[np.float64]:
    """FLOP/s of each row; formats that have none in the data sheet, as narrow weights, run in the fastest."""
    known: dict[str, float] = {str(name): flops for name, flops in device.flops.items()}
    fastest = max(known.values())
    return np.array([known.get(name, fastest) for name in precision.tolist()])


def _profile(
    operator: str | NDArray[np.object_], columns: dict[str, Any], source: Source, info: ProfileInfo
) -> Profile:
    names = np.broadcast_to(np.asarray(operator, dtype=object), (len(source),))
    return profile_of(info, {"operator": names, "seconds": source.seconds("latency", "ms"), **columns})


_READERS: dict[str, Callable[[Source, Device, ProfileInfo], Profile]] = {
    "gemm_perf.parquet": _matmul,
    "context_attention_perf.parquet": _prefill,
    "generation_attention_perf.parquet": _decode,
    "moe_perf.parquet": _experts,
    "custom_allreduce_perf.parquet": lambda source, device, info: collectives(source, device, info),
    "nccl_perf.parquet": lambda source, device, info: collectives(source, device, info),
}


def _newest(folder: Path, limit: str | None) -> Path | None:
    """The folder of the newest version up to a limit."""
    if not folder.is_dir():
        return None
    versions = sorted((_version(path.name), path) for path in folder.iterdir() if path.is_dir())
    fitting = [path for version, path in versions if limit is None or version <= _version(limit)]
    return fitting[-1] if fitting else None


def _version(text: str) -> list[tuple[int, int, str]]:
    """A key by which 0.9 comes before 0.10 and 1.0rc2 before 1.0."""
    parts = re.findall(r"\d+|[a-z]+", text)
    return [(1, int(part), "") if part.isdigit() else (-1, 0, part) for part in parts] + [(0, 0, "")]
