"""What the measuring process is told, and what it answers: plain data, known to both sides, a line each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from triptych.profiler.sizes import AnyCase, Case, HostCase, ImageCase, Limits


@dataclass(frozen=True)
class Job:
    """One model on one device."""

    model: str
    device: str
    """As torch names it."""
    precision: str
    tensor: tuple[int, ...]
    limits: Limits
    quick: bool
    repeats: int
    checks: int
    model_alone: bool = False
    """Whether copies, messages, collectives and making text are left out."""
    collectives: tuple[int, ...] | None = None
    """Members of groups whose collectives are measured; None: `tensor` above 1, where there are devices."""
    seconds: float | None = None
    """To measure in; None: as long as it takes."""
    done: Mapping[str, int] = field(default_factory=dict)
    """Turns that each batch has had, by its name and split; of what has no turns, 1."""

    @property
    def rounds(self) -> int:
        """Turns of each batch."""
        return -(-self.repeats // 2)

    def to_json(self) -> str:
        """On one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        fields["limits"] = Limits(**fields["limits"])
        for name in ("tensor", "collectives"):
            fields[name] = None if fields[name] is None else tuple(fields[name])
        return cls(**fields)

    @property
    def work(self) -> dict[str, Any]:
        """What makes measurements of one job good for another."""
        fields = asdict(self)
        return {name: fields[name] for name in ("model", "device", "precision", "limits", "repeats")}


def key(tensor: int, name: str) -> str:
    """Name of a batch under a split of the model."""
    return f"tp{tensor} {name}"


def case_to_plain(case: AnyCase) -> dict[str, Any]:
    """A batch as plain data."""
    return {"of": type(case).__name__, **case._asdict()}


def case_from_plain(plain: Mapping[str, Any]) -> AnyCase:
    """What `case_to_plain` gave, after JSON has made lists of tuples."""
    fields = {name: _tuples(value) for name, value in plain.items() if name != "of"}
    return _CASES[plain["of"]](**fields)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value


_CASES: Mapping[str, type[AnyCase]] = {"Case": Case, "ImageCase": ImageCase, "HostCase": HostCase}
