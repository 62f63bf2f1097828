"""Which of a server's requests is which of a client's.

Both count the same tokens and images, and end when the other says, but for the way between them. Where the
records do not tell how their clocks lie to each other, that is the one offset at which most requests end on
both sides.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from triptych.record import Run
from triptych.record.logs import Floats, Ints

TICK = 1e-5
"""Seconds that times may be off: the server's are whole microseconds, about, as is Unix time in a record."""
_ANCHORS = 8
"""Requests of the client that are tried against every request of the server that looks like them."""
_JUDGES = 128
"""Requests that tell how good an offset is."""
_NEAR = 0.05
"""Seconds that ends may be off at the offset; more where most are, up to _FAR."""
_FAR = 1.0
_FEWEST = 5
"""Requests that tell anything."""


def paired(server: Run, client: Run, offset: float | None = None) -> tuple[Ints, Ints] | None:
    """Rows of a client's requests, and of the same requests in the server's record.

    Args:
        server: the server's record.
        client: the client's.
        offset: what the server's clock shows when the client's shows 0; None: it is told from the requests.

    Returns:
        Two arrays of shape (pairs,), or None if most of the client's requests are not there.
    """
    ours, theirs = np.flatnonzero(client.finished), np.flatnonzero(server.finished)
    if len(ours) < _FEWEST or not len(theirs):
        return None
    kinds = np.concatenate([_kinds(client)[ours], _kinds(server)[theirs]])
    kind = np.unique(kinds, axis=0, return_inverse=True)[1].reshape(-1)
    span = 8 * sum(float(np.abs(run.requests["end"][run.finished]).max()) + 1 for run in (client, server))
    asked = _Side(client, ours, kind[: len(ours)], span)
    answered = _Side(server, theirs, kind[len(ours) :], span)
    if offset is None:
        offset = _offset(asked, answered)
    if offset is None:
        return None
    nearest, off = answered.nearest(asked, offset)
    off -= np.median(off)
    limit = min(max(_NEAR, 10 * float(np.median(np.abs(off)))), _FAR)
    near = np.flatnonzero((np.abs(off) <= limit) & (asked.kind == answered.kind[nearest]))
    near = near[np.argsort(np.abs(off[near]), kind="stable")]
    near = near[np.unique(nearest[near], return_index=True)[1]]  # of two that claim one, the nearer
    slower = asked.stay[near] >= answered.stay[nearest[near]] - TICK
    if len(near) < len(ours) / 2 or np.mean(slower) < 0.9:
        return None
    near = near[slower]
    return asked.rows[near], answered.rows[nearest[near]]


class _Side:
    """Finished requests of one record, ordered by kind and end.

    Args:
        run: the record.
        rows: of its requests, shape (n,).
        kind: of each, as a number that both sides share.
        span: more than times of both sides, and offsets between them, can differ by.
    """

    def __init__(self, run: Run, rows: Ints, kind: Ints, span: float) -> None:
        end = run.requests["end"][rows]
        order = np.lexsort((end, kind))
        self.rows, self.kind, self.end = rows[order], kind[order], end[order]
        self.arrival: Floats = run.requests["arrival"][self.rows]
        self.stay = self.end - self.arrival
        self.keys = self.kind * span + self.end
        """One number for both, since kinds are further apart than times can be."""

    def nearest(self, others: _Side, offset: float, rows: Any = slice(None)) -> tuple[Ints, Floats]:
        """Positions of the requests that end nearest to `others[rows]`, and how much later they do.

        Those of another kind are so far off that they are no pair.
        """
        keys, wanted = self.keys, others.keys[rows] + offset
        after = np.clip(np.searchsorted(keys, wanted), 1, max(len(keys) - 1, 1))
        before = after - 1
        after = np.minimum(after, len(keys) - 1)
        nearest = np.where(wanted - keys[before] <= np.abs(keys[after] - wanted), before, after)
        return nearest, keys[nearest] - wanted


def _kinds(run: Run) -> Ints:
    """What both sides know of a request, shape (requests, 3)."""
    names = ("prompt_tokens", "generated_tokens", "images")
    return np.stack([run.requests[name].astype(np.int64) for name in names], axis=1)


def _offset(asked: _Side, answered: _Side) -> float | None:
    """What the server's clock shows when the client's shows 0; None if no request looks alike.

    Tried is every offset at which one of a few requests would end on both sides at once; the best is that at
    which all are most nearly as late as each other, at their begin and at their end.
    """
    judges = np.unique(np.linspace(0, len(asked.rows) - 1, _JUDGES).astype(np.int64))
    first = np.searchsorted(answered.kind, asked.kind)
    alike = np.searchsorted(answered.kind, asked.kind, side="right") - first
    anchors = np.flatnonzero(alike)
    anchors = anchors[np.argsort(alike[anchors], kind="stable")][:_ANCHORS]
    best, found = np.inf, None
    for anchor in anchors.tolist():
        places = np.arange(first[anchor], first[anchor] + alike[anchor])
        for place in places[answered.stay[places] <= asked.stay[anchor] + TICK].tolist():
            offset = float(answered.end[place] - asked.end[anchor])
            nearest, late = answered.nearest(asked, offset, judges)
            begun = answered.arrival[nearest] - asked.arrival[judges] - offset
            spread = _spread(late) + _spread(begun)
            if spread < best:
                best, found = spread, offset
    return found


def _spread(values: Floats) -> float:
    return float(np.median(np.abs(values - np.median(values))))
