"""What lies between a client's clock and the scheduler's, and how wide the ways between pools are.

Client and server each count from their own zero, and both records say when that was. So every delay is known
as well as the machines' clocks agree: exactly where client and server are one machine. Where a record does
not say it, or the clocks disagree by more than the way takes, the offset between the two is told from the
requests. Then the round trip through the front end is known, but not how it divides into the way in and the
way out: it is taken to be even for the fastest requests, as NTP does (RFC 5905). Constant time moved from one
way to the other changes no latency that is predicted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from triptych.cost import between
from triptych.plan import PoolPlan
from triptych.record import Run
from triptych.record.logs import Floats, Ints
from triptych.spec.base import SpecError
from triptych.spec.deployment import Deployment
from triptych.validation.calibration_pairs import TICK, paired

BEGAN = "began_at"
"""In `Run.meta`: the Unix time at which the run's clock showed 0."""
_FEWEST = 5
"""Requests of a kind, or transfers, that a median is taken of."""
_MOST = 0.9
"""Share of the requests that must be possible as the clocks have them."""


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
    shared: bool
    """Whether the clocks of all records are known to agree; if not, `front_end` and `answer` are halves."""


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
        one = _by_clocks(server, client) or _by_requests(server, client)
        if one is None:
            problem = "its requests are not found in the server's record; give a bench of that server"
            raise SpecError("", problem, file=file)
        found.append(one)
    slopes = [one.front_end_image for one in found if one.front_end_image is not None]
    return Delays(
        front_end=float(np.median([one.front_end for one in found])),
        front_end_image=float(np.median(slopes)) if slopes else None,
        answer=float(np.median([one.answer for one in found])),
        requests=sum(one.requests for one in found),
        records=len(found),
        shared=all(one.shared for one in found),
    )


def _by_clocks(server: Run, client: Run) -> Delays | None:
    """By the times at which both clocks began; None if they are not known, or cannot be right."""
    ours, theirs = (run.meta.get(BEGAN) for run in (client, server))
    if ours is None or theirs is None:
        return None
    offset = ours - theirs
    pairs = paired(server, client, offset)
    if pairs is None:
        return None
    front, answer = _ways(server, client, *pairs, offset)
    # Nothing comes before it is sent, but for a few that were taken for each other.
    possible = (front >= -TICK) & (answer >= -TICK)
    if np.mean(possible) < _MOST:
        return None
    return _delays(_images(server, pairs[1])[possible], front[possible], answer[possible], shared=True)


def _by_requests(server: Run, client: Run) -> Delays | None:
    """With the fastest way in as long as the fastest way out; None if the requests are not found."""
    pairs = paired(server, client)
    if pairs is None:
        return None
    front, answer = _ways(server, client, *pairs, 0.0)
    images = _images(server, pairs[1])
    fewest = float(front[images == images.min()].min())
    offset = (fewest - (_per_image(front, images) or 0.0) * float(images.min()) - float(answer.min())) / 2
    return _delays(images, front - offset, answer + offset, shared=False)


def _ways(server: Run, client: Run, ours: Ints, theirs: Ints, offset: float) -> tuple[Floats, Floats]:
    """Seconds of each request from client to scheduler, and of its first token back, shape (pairs,)."""
    front = server.requests["arrival"][theirs] - client.requests["arrival"][ours] - offset
    answer = client.requests["first_token"][ours] + offset - server.requests["first_token"][theirs]
    return front, answer


def _delays(images: Floats, front: Floats, answer: Floats, *, shared: bool) -> Delays:
    """Of one client's record; arrays of shape (pairs,)."""
    slope = _per_image(front, images)
    return Delays(
        front_end=max(float(np.median(front - (slope or 0.0) * images)), 0.0),
        front_end_image=slope,
        answer=max(float(np.median(answer)), 0.0),
        requests=len(images),
        records=1,
        shared=shared,
    )


def _images(server: Run, rows: Ints) -> Floats:
    return server.requests["images"][rows].astype(np.float64)


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
        ends = (pools[columns[end][row]] for end in ("source", "target"))
        out, into = between(deployment.links, *ends)
        seconds = columns["end"][row] - columns["start"][row] - max(out.latency, into.latency)
        if seconds > 0:
            shares.append(columns["bytes"][row] / seconds / min(out.bandwidth, into.bandwidth))
    return (float(np.median(shares)), len(shares)) if len(shares) >= _FEWEST else None


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
