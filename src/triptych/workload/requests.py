"""The requests of a workload, column by column."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from triptych.spec.lengths import MOST_TOKENS
from triptych.spec.workload import MOST_PIXELS
from triptych.workload.blocks import block_hashes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class RowError(ValueError):
    """A request makes no sense: its row, the column, and what is wrong and the fix."""

    def __init__(self, row: int, column: str, problem: str) -> None:
        self.row, self.column, self.problem = row, column, problem
        super().__init__(f"row {row}, {column}: {problem}")


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """n requests in the order they come, which carry m images and k prefix ids in all.

    The tokens of a prompt stand in this order: those that prefix ids cover, images, the rest of the
    text. Prefix id j of a request stands for its tokens up to `(j + 1) * prefix_block_tokens`: where two
    requests have an equal id, their prompts are equal up to there.

    Raises:
        RowError: a value is out of its range, or times go backwards.
        ValueError: columns do not fit together.
    """

    arrival: Floats
    """[n] seconds, nondecreasing; all 0 in a closed loop."""
    text_tokens: Ints
    """[n] tokens of the prompt without its images, from 1 to `MOST_TOKENS`."""
    output_tokens: Ints
    """[n] tokens to generate, from 1 to `MOST_TOKENS`."""
    patience: Floats
    """[n] seconds from arrival after which the client gives up; inf: never."""
    gives_up_by_abort: NDArray[np.bool_]
    """[n] whether giving up is the client going away rather than a time-out."""
    image_offsets: Ints
    """[n + 1] images of request i are those from image_offsets[i] to image_offsets[i + 1]."""
    image_width: NDArray[np.int32]
    """[m] pixels."""
    image_height: NDArray[np.int32]
    """[m] pixels."""
    image_content: Ints
    """[m] equal numbers are equal pixels."""
    prefix_offsets: Ints
    """[n + 1] prefix ids of request i are those from prefix_offsets[i] to prefix_offsets[i + 1]."""
    prefix_ids: Ints
    """[k]."""
    prefix_block_tokens: int = 0
    """Tokens that one prefix id covers; 0 if there are no ids."""
    concurrency: int | None = None
    """Most requests in flight: one whose `arrival` comes while so many are arrives when one of them ends. All
    arrivals at 0 make a closed loop. None: there is no limit."""

    def __post_init__(self) -> None:
        n = len(self.arrival)
        for name, dtype, length in (
            ("arrival", np.float64, n),
            ("text_tokens", np.int64, n),
            ("output_tokens", np.int64, n),
            ("patience", np.float64, n),
            ("gives_up_by_abort", np.bool_, n),
            ("image_offsets", np.int64, n + 1),
            ("image_width", np.int32, len(self.image_content)),
            ("image_height", np.int32, len(self.image_content)),
            ("image_content", np.int64, len(self.image_content)),
            ("prefix_offsets", np.int64, n + 1),
            ("prefix_ids", np.int64, len(self.prefix_ids)),
        ):
            column = getattr(self, name)
            if column.dtype != dtype or column.shape != (length,):
                raise ValueError(
                    f"{name} must be {np.dtype(dtype)}[{length}], not {column.dtype}{column.shape}"
                )
        self._check_rows()
        for name, end in (
            ("image_offsets", len(self.image_content)),
            ("prefix_offsets", len(self.prefix_ids)),
        ):
            offsets = getattr(self, name)
            if offsets[0] != 0 or offsets[-1] != end or (np.diff(offsets) < 0).any():
                raise ValueError(f"{name} must rise from 0 to {end}")
        self._check_images()
        if len(self.prefix_ids) and self.prefix_block_tokens < 1:
            raise ValueError("prefix ids need prefix_block_tokens, the tokens that one id covers")
        if self.concurrency is not None and self.concurrency < 1:
            raise ValueError("concurrency must be at least 1")

    def _check_rows(self) -> None:
        backwards = np.diff(self.arrival) < 0
        if backwards.any():
            row = int(backwards.argmax()) + 1
            raise RowError(row, "arrival", "comes before the row above it; sort the rows by time")
        ranges: tuple[tuple[str, NDArray[Any], str], ...] = (
            ("arrival", ~(np.isfinite(self.arrival) & (self.arrival >= 0)), "0 or later"),
            ("text_tokens", self.text_tokens < 1, "at least 1"),
            ("text_tokens", self.text_tokens > MOST_TOKENS, f"at most {MOST_TOKENS}"),
            ("output_tokens", self.output_tokens < 1, "at least 1"),
            ("output_tokens", self.output_tokens > MOST_TOKENS, f"at most {MOST_TOKENS}"),
            ("patience", ~(self.patience >= 0), "0 or more"),
        )
        for name, bad, must in ranges:
            if bad.any():
                self._refuse(int(bad.argmax()), name, int(bad.argmax()), must)

    def _check_images(self) -> None:
        for name in ("image_width", "image_height"):
            pixels = getattr(self, name)
            for bad, must in ((pixels < 1, "at least 1"), (pixels > MOST_PIXELS, f"at most {MOST_PIXELS}")):
                if bad.any():
                    image = int(bad.argmax())
                    row = int(np.searchsorted(self.image_offsets, image, side="right")) - 1
                    self._refuse(row, name, image, must)

    def _refuse(self, row: int, name: str, index: int, must: str) -> NoReturn:
        found = getattr(self, name)[index]
        raise RowError(row, name, f"must be {must}, not {found:.10g}; correct or remove the row")

    def __len__(self) -> int:
        return len(self.arrival)

    @property
    def is_held_back(self) -> bool:
        """Whether requests have times at which a limit may not let them come."""
        return self.concurrency is not None and bool(self.arrival.any())

    @property
    def image_counts(self) -> Ints:
        """[n] images of each request."""
        return np.diff(self.image_offsets)

    @classmethod
    def plain(
        cls, arrival: Floats, text_tokens: Ints | None = None, output_tokens: Ints | None = None
    ) -> Requests:
        """Requests of text alone that nobody gives up; of one token where lengths are not given."""
        n = len(arrival)
        one = np.ones(n, dtype=np.int64)
        return cls(
            arrival=arrival,
            text_tokens=one if text_tokens is None else text_tokens,
            output_tokens=one if output_tokens is None else output_tokens,
            patience=np.full(n, np.inf),
            gives_up_by_abort=np.zeros(n, dtype=np.bool_),
            image_offsets=np.zeros(n + 1, dtype=np.int64),
            image_width=np.zeros(0, dtype=np.int32),
            image_height=np.zeros(0, dtype=np.int32),
            image_content=np.zeros(0, dtype=np.int64),
            prefix_offsets=np.zeros(n + 1, dtype=np.int64),
            prefix_ids=np.zeros(0, dtype=np.int64),
        )

    def take(self, rows: Ints | slice, arrival: Floats | None = None) -> Requests:
        """The requests of `rows` in that order, at their own times or at those of `arrival`."""
        index = np.arange(len(self))[rows]
        columns: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("arrival", "text_tokens", "output_tokens", "patience", "gives_up_by_abort"):
            columns[name] = columns[name][index]
        if arrival is not None:
            columns["arrival"] = arrival
        columns["image_offsets"], images = _ragged(self.image_offsets, index)
        for name in ("image_width", "image_height", "image_content"):
            columns[name] = columns[name][images]
        columns["prefix_offsets"], prefixes = _ragged(self.prefix_offsets, index)
        columns["prefix_ids"] = columns["prefix_ids"][prefixes]
        return Requests(**columns)

    def block_hashes(self, i: int, block_size: int, prompt_tokens: int) -> tuple[int, ...]:
        """Hash of each full KV block of request i that another prompt can share.

        Blocks hold `block_size` tokens. `prompt_tokens` is the length of the prompt with its images, as
        the model counts them. Blocks beyond the text that prefix ids cover have no hash, so that the
        result may be shorter than the prompt.
        """
        ids = self.prefix_ids[self.prefix_offsets[i] : self.prefix_offsets[i + 1]]
        # The last id may reach beyond the text, where the images of the request begin.
        tokens = min(int(self.text_tokens[i]), prompt_tokens)
        return block_hashes(ids, self.prefix_block_tokens, block_size, tokens)


def _ragged(offsets: Ints, rows: Ints) -> tuple[Ints, Ints]:
    """Offsets [len(rows) + 1] and positions of the items of `rows` in a column of items."""
    counts = np.diff(offsets)[rows]
    ends = np.cumsum(counts)
    taken = np.concatenate(([0], ends))
    shift = np.repeat(offsets[rows] - (ends - counts), counts)
    return taken, np.arange(taken[-1]) + shift
