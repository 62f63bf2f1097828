"""Inter-token latency (ITL, also TBT: time between tokens): every gap between two tokens of a request.

Tokens are not logged one by one. All members of a lane's decode set get their tokens at the same times, so
that a stay in the set (a span) says which of the lane's iterations were a request's, and the gaps follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from triptych.record.logs import Column, Floats, Ints, LaneLog, Spans

_SAME_TIME = 1e-9
"""Times that differ by less are one: the rounding of sums."""
_CHUNK = 1 << 18
"""Gaps that are expanded at a time: few enough to stay in the processor's cache."""
_BITS = 44
"""Bits of a sort key for the gap in nanoseconds (up to 4.9 hours); the others number a chunk's requests."""


class TokenGaps:
    """The gaps between the tokens of each request.

    Args:
        lanes: logs of all batches.
        spans: see `Spans`.
        first_token: of each request, seconds, shape (requests,).
        end: of each request, seconds, shape (requests,).
        finished: which requests got all their tokens, the last of them at their end, shape (requests,).
    """

    def __init__(
        self,
        lanes: Sequence[LaneLog],
        spans: Spans,
        first_token: Column,
        end: Column,
        finished: npt.NDArray[np.bool_],
    ) -> None:
        times = [lane.decode_times() for lane in lanes]
        offsets = np.cumsum([0, *map(len, times)])
        ends = np.concatenate([*times, np.empty(0)])
        order = np.argsort(spans.columns["request"], kind="stable")
        request = spans.columns["request"][order]
        offset = offsets[spans.columns["lane"][order]]
        begin: Ints = offset + spans.columns["join"][order]
        stop: Ints = offset + spans.columns["leave"][order]
        before = spans.columns["token_time"][order].astype(np.float64, copy=False)

        opens = np.ones(len(request), dtype=bool)
        opens[1:] = request[1:] != request[:-1]
        closes = np.ones_like(opens)
        closes[:-1] = opens[1:]
        segment = np.cumsum(opens) - 1
        some = stop > begin
        last = before.copy()
        last[some] = ends[stop[some] - 1]

        # A preempted request gets a token from its second prefill: one gap to it from the last of its span
        # before, and if it was the request's last token no span follows.
        previous = np.empty_like(before)
        previous[opens] = first_token[request[opens]]
        previous[~opens] = last[:-1][~opens[1:]]
        link = before - previous
        tail = np.where(closes & finished[request], end[request] - last, 0.0)
        linked, tailed = link > _SAME_TIME, tail > _SAME_TIME

        self._requests = len(first_token)
        self._request = request[opens]
        self._steps = np.diff(ends, prepend=0.0)
        """Time from one decode iteration's end to the next, of all lanes one after the other."""
        self._begin, self._stop = begin[some] + 1, stop[some]
        """Positions in `_steps` of the gaps inside each span that has tokens."""
        self._span_segment = segment[some]
        singles = [ends[begin[some]] - before[some], link[linked], tail[tailed]]
        segments = [segment[some], segment[linked], segment[tailed]]
        single_segment = np.concatenate(segments)
        by_segment = np.argsort(single_segment, kind="stable")
        self._singles = np.concatenate(singles)[by_segment]
        """The gaps into and between spans, which are no step of a lane; ordered by request."""
        self._single_segment = single_segment[by_segment]

    def distribution(self, among: npt.NDArray[np.bool_] | None = None) -> tuple[Floats, Ints]:
        """All gaps of the run as values (seconds) and how often each occurs; exact.

        A step of a lane is a gap for as many requests as were in the set before and after it.

        Args:
            among: requests whose gaps are meant, shape (requests,); None: all.
        """
        begin, stop, singles = self._begin, self._stop, self._singles
        if among is not None:
            meant = among[self._request]
            spans = meant[self._span_segment]
            begin, stop, singles = begin[spans], stop[spans], singles[meant[self._single_segment]]
        size = len(self._steps) + 1
        changes = np.bincount(begin, minlength=size) - np.bincount(stop, minlength=size)
        counts = np.cumsum(changes)[:-1]
        shared = counts > 0
        values = np.concatenate([self._steps[shared], singles])
        return values, np.concatenate([counts[shared], np.ones(len(singles), dtype=np.int64)])

    def percentiles(self, shares: Sequence[float]) -> list[Floats]:
        """Percentiles of each request's own gaps, each of shape (requests,), seconds; NaN without gaps.

        Linear between order statistics, as NumPy's default. Gaps are taken to the nanosecond.

        Args:
            shares: from 0 to 1.
        """
        results = [np.full(self._requests, np.nan) for _ in shares]
        segments = len(self._request)
        inner = self._stop - self._begin
        sizes = np.bincount(self._span_segment, inner, minlength=segments).astype(np.int64)
        sizes += np.bincount(self._single_segment, minlength=segments)
        if not segments:
            return results
        total = np.cumsum(np.maximum(sizes, 1))
        steps, singles = _nanoseconds(self._steps), _nanoseconds(self._singles)
        borders = np.searchsorted(total, np.arange(_CHUNK, total[-1], _CHUNK))
        borders = np.unique(np.concatenate([[0], borders, [segments]]))
        spans_at = np.searchsorted(self._span_segment, borders)
        singles_at = np.searchsorted(self._single_segment, borders)
        for i, (low, high) in enumerate(pairwise(borders)):
            spans = slice(spans_at[i], spans_at[i + 1])
            alone = slice(singles_at[i], singles_at[i + 1])
            counts = inner[spans]
            run_over = np.cumsum(counts)
            index = np.repeat(self._begin[spans] - run_over + counts, counts)
            index += np.arange(len(index))
            keys = np.concatenate(
                [
                    steps[index] + np.repeat(self._span_segment[spans] - low << _BITS, counts),
                    singles[alone] + (self._single_segment[alone] - low << _BITS),
                ]
            )
            keys.sort()
            keys &= (1 << _BITS) - 1
            size = sizes[low:high]
            some = size > 0
            first, size = (np.cumsum(size) - size)[some], size[some]
            for share, result in zip(shares, results, strict=True):
                position = (size - 1) * share
                below = position.astype(np.int64)
                above = np.minimum(below + 1, size - 1)
                value, upper = keys[first + below], keys[first + above]
                result[self._request[low:high][some]] = (value + (upper - value) * (position - below)) * 1e-9
        return results


def _nanoseconds(gaps: Floats) -> Ints:
    return np.rint(np.minimum(gaps * 1e9, (1 << _BITS) - 1)).astype(np.int64)
