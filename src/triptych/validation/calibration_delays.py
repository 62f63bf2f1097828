"""What lies between a client's clock and the scheduler's, and how wide the ways between pools are.

Client and server each count from their own zero. Which of the server's requests is which of the client's
is told by tokens and images, and by the one offset between the clocks at which most of them end when the
client says. The round trip through the front end is known; how it divides into the way in and the way out is
not, since the offset is told from it. It is taken to be even for the fastest requests, as NTP does (RFC
5905). Constant time moved from one way to the other changes no latency that is predicted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from triptych.cost import between, port
from triptych.plan import PoolPlan
from triptych.record import Run
from triptych.record.logs import Floats, Ints
from triptych.spec.base import SpecError
from triptych.spec.deployment import Deployment

_ANCHORS = 8
"""Requests of the client that are tried against every request of the server that looks like them."""
_JUDGES = 128
"""Requests that tell how good an offset is."""
_TICK = 1e-5
"""The server's times are whole microseconds, about."""
_NEAR = 0.05
"""Seconds that ends may be off at the offset; more where most are, up to _FAR."""
_FAR = 1.0
_FEWEST = 5
"""Requests of a kind, or transfers, that a median is taken of."""


@dataclass(frozen=True)
class Delays:
    """Medians over the records of clients."""

    front_end: float
    front_end_image: float | None
    """None: all requests had as many images."""
    answer: float
    requests: int
    """That both sides have the times of."""
    records: int


def delays(server: Run, clients: Mapping[Path, Run]) -> Delays:
    """What lies between the clients and the scheduler.

    Args:
        server: the server's record.
        clients: those of the clients that it answered, by where they are.

    Raises:
        SpecError: a client's requests are not in the server's record.
    """
    found = []
    for file, client in clients.items():
        pairs = paired(server, client)
        if pairs is None:
            problem = "its requests are not found in the server's record; give a bench of that server"
            raise SpecError("", problem, file=file)
        found.append(_delays(server, client, *pairs))
    slopes = [one.front_end_image for one in found if one.front_end_image is not None]
    return Delays(
        front_end=float(np.median([one.front_end for one in found])),
        front_end_image=float(np.median(slopes)) if slopes else None,
        answer=float(np.median([one.answer for one in found])),
        requests=sum(one.requests for one in found),
        records=len(found),
    )


def paired(server: Run, client: Run) -> tuple[Ints, Ints] | None:
    """Rows of a client's requests, and of the same requests in the server's record.

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
    offset = _offset(asked, answered)
    if offset is None:
        return None
    nearest, off = answered.nearest(asked, offset)
    off -= np.median(off)
    limit = min(max(_NEAR, 10 * float(np.median(np.abs(off)))), _FAR)
    near = np.flatnonzero((np.abs(off) <= limit) & (asked.kind == answered.kind[nearest]))
    near = near[np.argsort(np.abs(off[near]), kind="stable")]
    near = near[np.unique(nearest[near], return_index=True)[1]]  # of two that claim one, the nearer
    slower = asked.stay[near] >= answered.stay[nearest[near]] - _TICK
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
        for place in places[answered.stay[places] <= asked.stay[anchor] + _TICK].tolist():
            offset = float(answered.end[place] - asked.end[anchor])
            nearest, late = answered.nearest(asked, offset, judges)
            begun = answered.arrival[nearest] - asked.arrival[judges] - offset
            spread = _spread(late) + _spread(begun)
            if spread < best:
                best, found = spread, offset
    return found


def _spread(values: Floats) -> float:
    return float(np.median(np.abs(values - np.median(values))))


def _delays(server: Run, client: Run, ours: Ints, theirs: Ints) -> Delays:
    """Of one client's record."""
    front = server.requests["arrival"][theirs] - client.requests["arrival"][ours]
    answer = client.requests["first_token"][ours] - server.requests["first_token"][theirs]
    images = server.requests["images"][theirs].astype(np.float64)
    slope = _per_image(front, images)
    fewest = float(front[images == images.min()].min())
    offset = (fewest - (slope or 0.0) * float(images.min()) - float(answer.min())) / 2
    front = front - (slope or 0.0) * images
    return Delays(
        front_end=max(float(np.median(front)) - offset, 0.0),
        front_end_image=slope,
        answer=max(float(np.median(answer)) + offset, 0.0),
        requests=len(ours),
        records=1,
    )


def _per_image(front: Floats, images: Floats) -> float | None:
    """Slope of a line through the medians of requests with equally many images, by how many they are."""
    counts, sizes = np.unique(images, return_counts=True)
    counts, sizes = counts[sizes >= _FEWEST], sizes[sizes >= _FEWEST]
    if len(counts) < 2:
        return None
    medians = np.array([np.median(front[images == count]) for count in counts])
    slope = np.polyfit(counts, medians, 1, w=np.sqrt(sizes))[0]
    return max(float(slope), 0.0)


def link_share(run: Run, deployment: Deployment, plans: Mapping[str, PoolPlan]) -> tuple[float, int] | None:
    """The share of declared bandwidth that transfers reach which have their ports to themselves.

    Args:
        run: the server's record.
        deployment: whose links count.
        plans: by name of the pool.

    Returns:
        The median, and of how many transfers; None if they are too few.
    """
    if run.transfers is None or len(run.transfers) < _FEWEST:
        return None
    columns = run.transfers.columns
    rows = _alone(columns["source"], columns["target"], columns["start"], columns["end"])
    pools = [plans[info.pool] for info in run.instances]
    shares = []
    for row in rows.tolist():
        out, into = _ports(deployment, pools[columns["source"][row]], pools[columns["target"][row]])
        seconds = columns["end"][row] - columns["start"][row] - max(out.latency, into.latency)
        if seconds > 0:
            shares.append(columns["bytes"][row] / seconds / min(out.bandwidth, into.bandwidth))
    return (float(np.median(shares)), len(shares)) if len(shares) >= _FEWEST else None


def _ports(deployment: Deployment, source: PoolPlan, target: PoolPlan) -> Any:
    ends = (port(plan.device, plan.node, plan.pool.parallel) for plan in (source, target))
    return between(deployment.links, source.name, target.name, *ends)


def _alone(source: Ints, target: Ints, start: Floats, end: Floats) -> Ints:
    """Transfers during which nothing else leaves their source or enters their target."""
    shared = np.zeros(len(start), np.bool_)
    for ports in (source, target):
        order = np.lexsort((start, ports))
        same = ports[order][1:] == ports[order][:-1]
        latest = _running_max(end[order], ports[order])
        meets = same & (start[order][1:] < latest[:-1])
        shared[order[1:][meets]] = True
        shared[order[:-1][meets]] = True
    return np.flatnonzero(~shared & (end > start))


def _running_max(values: Floats, groups: npt.NDArray[Any]) -> Floats:
    """The largest value so far within each run of equal groups."""
    bounds = np.flatnonzero(np.diff(groups)) + 1
    parts: Sequence[Floats] = [np.maximum.accumulate(part) for part in np.split(values, bounds)]
    return np.concatenate(parts)
