"""Attention of several prompt chunks in one launch, from what each would take alone.

A launch deals the tiles of all chunks out to the processors of the device. While tiles do not fill it, it
takes as long as its longest chunk; once they do, the work of all chunks adds up above what any launch
takes:

    seconds       = max(longest chunk alone, floor + sum of work)
    work(q, h)    = min(alone(q, h) - floor, per_query q + per_pair (q h + q^2 / 2))

for q query tokens after h of history. That keeps a single chunk as it was measured. The minimum takes away
what a short chunk leaves idle when it is alone; where long kernels become more efficient it follows the
measurement. Work that goes by the query token is what a tile costs beside its keys: reading queries,
writing outputs, masked halves on the diagonal. It is why many short prompts take longer than a long one of
as many query-key pairs: by the shape, a query token costs as much as 390 to 1,800 keys on an H100 and as 230
to 550 on an RTX PRO 6000.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from triptych.cost.loads import Floats

_KEYS = 300.0
"""Keys that a query token costs as much as, where the fit begins."""
_ROUNDS = 20
"""Of the fit. It goes to and fro between few solutions after a dozen."""
_CLOSE = 0.05
"""Relative error from which on single measurements lose their pull."""


@dataclass(frozen=True)
class Together:
    """Seconds that several chunks share in one launch of one layer, and those that they add."""

    floor: float
    """Of any launch, however small."""
    per_query: float
    """Of a query token on a device that is filled."""
    per_pair: float
    """Of a query-key pair on a device that is filled."""

    def equal(self, alone: Floats, chunks: Floats, queries: Floats, history: Floats) -> Floats:
        """Seconds of chunks of one length.

        Args:
            alone: seconds of one of them, shape (rows,), as all.
            chunks: how many there are.
            queries: tokens of each.
            history: tokens of KV before each.
        """
        filled = queries * (self.per_query + self.per_pair * (history + 0.5 * queries))
        work = np.clip(alone - self.floor, 0.0, filled)
        return np.asarray(np.maximum(alone, np.minimum(alone, self.floor) + chunks * work))


def fit_together(
    prompts: Floats, queries: Floats, history: Floats, window: Floats, seconds: Floats
) -> Together:
    """Learned from launches of equal chunks, or of one chunk each, by the least relative errors.

    Beside the work there is a path: a launch that does not fill the device takes as long as one tile needs
    for all its keys. In turn rows are dealt to the longer of the two and non-negative coefficients fitted;
    the best round counts. Single chunks tell all of it where some of them fill the device; several chunks in
    one launch tell it better.

    Args:
        prompts: chunks of each launch, shape (rows,), as all.
        queries: tokens of each chunk, at least 1.
        history: tokens of KV before each.
        window: tokens that a query sees at the most; 0: all.
        seconds: of the launch.
    """
    from scipy.optimize import nnls

    ones, keys = np.ones(len(seconds)), history + queries
    keys = np.where(window > 0, np.minimum(keys, window), keys)
    tokens, pairs = prompts * queries, prompts * queries * (history + 0.5 * queries)
    dense = np.max(seconds) / np.max(pairs)
    found = np.array([np.min(seconds), 0.5 * np.max(seconds) / np.max(keys), _KEYS * dense, dense])
    best, least, weight = found, np.inf, ones
    for _ in range(_ROUNDS):
        path = found[1] * keys > found[2] * tokens + found[3] * pairs
        columns = (ones, np.where(path, keys, 0.0), np.where(path, 0.0, tokens), np.where(path, 0.0, pairs))
        design = np.stack(columns, axis=1) / seconds[:, None]
        scale = np.maximum(design.max(axis=0), 1e-300)
        found = nnls(design / scale * weight[:, None], weight)[0] / scale
        predicted = found[0] + np.maximum(found[1] * keys, found[2] * tokens + found[3] * pairs)
        far = np.sqrt(1 + ((predicted / seconds - 1) / _CLOSE) ** 2)
        if far.sum() < least:
            best, least = found, float(far.sum())
        weight = 1 / np.sqrt(far)
    floor, _, per_query, per_pair = best.tolist()
    return Together(min(floor, float(np.min(seconds))), per_query, per_pair)
