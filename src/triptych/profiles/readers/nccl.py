"""Collectives as aiconfigurator keeps them: NCCL's own benchmarks, and vLLM's all-reduce kernels.

Latencies are in ms. `message_size` counts elements, not bytes: NCCL takes as long for half-precision messages
of a size as for int8 messages of twice that size, and vLLM's bfloat16 all-reduces of 256 Mi elements over 2,
4 and 8 H100 (1.67, 2.31, 2.11 ms) take as long as NCCL's of as many half-precision ones (1.69, 2.30, 2.11).

The message of an all-gather is what every member has in the end, that of a reduce-scatter and an all-to-all
what every member has or sends in all: counted per member they would need more than the wires carry.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych import catalog
from triptych.profiles.check import check_profile, check_speed, refuse
from triptych.profiles.readers.duplicates import averaged
from triptych.profiles.readers.names import device_of, precisions_of, slug
from triptych.profiles.readers.source import Source, read_table
from triptych.profiles.table import Profile, ProfileInfo, joined, profile_of
from triptych.spec.base import SpecError
from triptych.spec.device import Device

OPERATORS = {
    "all_reduce": "all-reduce",
    "all_gather": "all-gather",
    "reduce_scatter": "reduce-scatter",
    "alltoall": "all-to-all",
}
_NCCL = "all-reduce NCCL"
_BYTES = {"bfloat16": 2, "half": 2, "float16": 2, "int8": 1, "fp8": 1, "float": 4}

NOTES = (
    "`all-reduce` of an engine's own kernels is replayed from a graph, as engines do; without, it is "
    "`all-reduce eager`."
)


def is_collectives(source: Source) -> bool:
    """Whether a table has the columns of such a file."""
    return "message_size" in source and "num_gpus" in source


def read_nccl(path: str | Path | Sequence[Path], *, device: str | None = None) -> Profile:
    """Collectives of one device, from a CSV or Parquet file, several, or a folder of them.

    Args:
        path: the file, the files, or the folder.
        device: a name of the catalogue; None: whichever the files name.

    Returns:
        `all-reduce`, `all-gather`, `reduce-scatter`, `all-to-all` by members and bytes; beside an engine's
        own all-reduce also `all-reduce eager` and `all-reduce NCCL`. The precision is that of the elements.

    Raises:
        SpecError: the file, and column and row, that is missing or cannot be right.
    """
    sources = [read_table(file) for file in _files(path)]
    first = sources[0]
    found = device or device_of(first.only("device"), field="device, row 0", file=first.file)
    facts = catalog.device(found)
    libraries = sorted({_library(source) for source in sources})
    info = ProfileInfo(
        name=slug(facts.name, *libraries),
        device=facts.name,
        source="ai-dynamo/aiconfigurator, Apache-2.0",
        versions=dict(library.rsplit(" ", 1) for library in libraries if " " in library),
        notes=NOTES,
    )
    return averaged(engine_first(joined(info, [collectives(source, facts, info) for source in sources])))


def engine_first(profile: Profile) -> Profile:
    """NCCL's all-reduce is `all-reduce` for as many members as no engine's own was measured for.

    Engines use their own, which for large messages is NCCL again.
    """
    columns = dict(profile.columns)
    names, members = columns["operator"], columns["members"]
    alone = (names == _NCCL) & ~np.isin(members, members[names == "all-reduce"])
    columns["operator"] = np.where(alone, "all-reduce", names).astype(object)
    return Profile(profile.info, columns)


def collectives(source: Source, device: Device, info: ProfileInfo) -> Profile:
    """The collectives of one table; NCCL's all-reduce is `all-reduce NCCL`.

    Raises:
        SpecError: the column and row that is missing or cannot be right.
    """
    kind = next((name for name in ("nccl_dtype", "allreduce_dtype") if name in source), "nccl_dtype")
    source.need(("op_name", kind, "num_gpus", "message_size", "latency"))
    check_device(source, device)
    names, types = source.texts("op_name"), source.texts(kind)
    _refuse_unknown(names, OPERATORS, "op_name", source)
    _refuse_unknown(types, _BYTES, kind, source)
    members, elements = source.counts("num_gpus"), source.counts("message_size")
    refuse(members < 2, "num_gpus", members, "is no group of devices", source.file)
    size = elements * np.array([_BYTES[name] for name in types.tolist()])
    operators = np.array([OPERATORS[name] for name in names.tolist()], dtype=object)
    if kind == "nccl_dtype":
        operators[operators == "all-reduce"] = _NCCL
    if "backend" in source:
        eager = np.array([backend.endswith("_eager") for backend in source.texts("backend").tolist()])
        operators[eager] += " eager"
    ideal = _ideal(operators, members, size, device)
    check_speed("latency", source.numbers("latency"), "ms", ideal, source.file)
    columns: dict[str, Any] = {
        "operator": operators,
        "precision": precisions_of(types),
        "members": members,
        "bytes": size,
        "seconds": source.seconds("latency", "ms"),
    }
    profile = profile_of(info, columns)
    check_profile(profile, source.file)
    return profile


def check_device(source: Source, device: Device) -> None:
    """A table that names a device names this one.

    Raises:
        SpecError: it names another, or several.
    """
    if "device" not in source:
        return
    product = source.only("device")
    if device_of(product, field="device, row 0", file=source.file) != device.name:
        problem = f"{product!r} is not {device.name}, which the other files are of; leave one out"
        raise SpecError("device, row 0", problem, file=source.file)


def _ideal(
    operators: NDArray[np.object_], members: NDArray[np.int64], size: NDArray[Any], device: Device
) -> NDArray[np.float64]:
    """Seconds at the full bandwidth of the device's link, in one direction."""
    ways = np.array([2.0 if name.startswith("all-reduce") else 1.0 for name in operators.tolist()])
    return np.asarray(ways * (members - 1) / members * size / device.link.bandwidth)


def _refuse_unknown(given: NDArray[np.object_], known: dict[str, Any], name: str, source: Source) -> None:
    unknown = ~np.isin(given.astype(str), list(known))
    refuse(unknown, name, given, f"is none of {', '.join(known)}", source.file)


def _library(source: Source) -> str:
    """What was measured and its version: "nccl 2.29.2"."""
    if "version" not in source:
        return "nccl"
    engine = "nccl" if "nccl_dtype" in source else source.only("framework").lower()
    return f"{engine} {source.only('version')}"


def _files(path: str | Path | Sequence[Path]) -> list[Path]:
    if not isinstance(path, (str, Path)):
        return list(path)
    folder = Path(path)
    if not folder.is_dir():
        return [folder]
    files = sorted(file for file in folder.iterdir() if file.suffix in (".csv", ".parquet"))
    if not files:
        raise SpecError("", "holds no CSV or Parquet file; use another folder", file=folder)
    return files
