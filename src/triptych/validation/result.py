"""What a validation finds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from triptych.record import Run
from triptych.report.compare import METRICS, Comparison, Row, compare, rows

JUDGED = ("mean", "p90")
"""Statistics of METRICS that `--within` bounds; the rest is shown."""


@dataclass(frozen=True, eq=False)
class Level:
    """One rate of requests."""

    load: float | None
    """Share of the capacity; None: the workload's own times."""
    folder: Path
    """Where its records are."""
    measured: tuple[Run, ...]
    """One a repetition."""
    predicted: tuple[Run, ...]
    notes: tuple[str, ...]
    """What someone who reads the errors has to know."""

    @cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """One a repetition."""
        return tuple(map(compare, self.predicted, self.measured))

    @cached_property
    def rows(self) -> list[Row]:
        """Every figure over the repetitions."""
        return rows(self.comparisons)

    @property
    def worst(self) -> float | None:
        """The largest error of a mean or P90 of a latency, unsigned; None: nothing can be compared."""
        judged = [row for row in self.rows if row.metric in METRICS and row.statistic in JUDGED]
        return max((abs(row.error) for row in judged if row.error is not None), default=None)


@dataclass(frozen=True, eq=False)
class Validation:
    """All levels of one deployment and workload."""

    name: str
    """Model, device and scheduler, as a title has them."""
    levels: tuple[Level, ...]
    capacity: float | None = None
    """Requests/s that a closed loop was answered at; None: it was not asked for."""
    concurrency: int | None = None
    """Requests under way in that loop."""
    calibrated: bool = False
    """Whether predictions rest on a calibration to that loop."""

    def within(self, share: float) -> bool:
        """Whether no mean and no P90 of TTFT, TPOT and E2E is off by more than this share."""
        return all(level.worst is not None and level.worst <= share for level in self.levels)
