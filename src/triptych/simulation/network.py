"""Transfers between instances that share their ports fairly.

Every instance has a port towards the others, and deals it out equally among the transfers through it. A
transfer runs at the smaller of its shares of the sender's and the receiver's port; what it cannot use of the
larger one is not dealt out again. That is the fair rate in a network of full bisection bandwidth but for this
remainder. Shares change whenever a transfer starts or ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Schedule = Callable[[float, Callable[[float, Any], None], Any], None]
"""(time, action, argument): calls action(time, argument) then."""


class Transfer:
    """Bytes under way from one instance to another."""

    __slots__ = ("arrives", "done", "into", "out", "rate", "remaining", "source", "target", "updated")

    def __init__(
        self,
        source: int,
        target: int,
        size: float,
        out: float,
        into: float,
        done: Callable[[float], None],
    ) -> None:
        self.source = source
        self.target = target
        self.remaining = size
        self.out = out
        self.into = into
        self.done = done
        self.rate = 0.0
        self.updated = 0.0
        self.arrives = 0.0


class Network:
    """All transfers of a run.

    Args:
        schedule: of the event loop.
    """

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._out: dict[int, dict[Transfer, None]] = {}
        self._in: dict[int, dict[Transfer, None]] = {}

    def send(
        self,
        now: float,
        source: int,
        target: int,
        size: float,
        *,
        out: float,
        into: float,
        latency: float,
        done: Callable[[float], None],
    ) -> None:
        """Starts a transfer of `size` bytes between instances; `done(time)` is called when all has come.

        Args:
            now: seconds.
            source: instance that sends.
            target: instance that receives.
            size: bytes.
            out: bytes/s of the sender's port.
            into: bytes/s of the receiver's port.
            latency: seconds before the first byte moves.
            done: called with the time of arrival.
        """
        transfer = Transfer(source, target, size, out, into, done)
        if latency > 0:
            self._schedule(now + latency, self._begin, transfer)
        else:
            self._begin(now, transfer)

    def _begin(self, now: float, transfer: Transfer) -> None:
        transfer.updated = now
        self._out.setdefault(transfer.source, {})[transfer] = None
        self._in.setdefault(transfer.target, {})[transfer] = None
        self._share(now, transfer)

    def _share(self, now: float, changed: Transfer) -> None:
        """Deals the bandwidth anew among the transfers that share a port with `changed`."""
        outgoing, incoming = self._out[changed.source], self._in[changed.target]
        for transfer in {**outgoing, **incoming}:
            rate = min(
                transfer.out / len(self._out[transfer.source]),
                transfer.into / len(self._in[transfer.target]),
            )
            if rate == transfer.rate:
                continue
            transfer.remaining -= transfer.rate * (now - transfer.updated)
            transfer.updated = now
            transfer.rate = rate
            transfer.arrives = now + max(transfer.remaining, 0.0) / rate
            self._schedule(transfer.arrives, self._arrive, transfer)

    def _arrive(self, now: float, transfer: Transfer) -> None:
        if now != transfer.arrives or transfer not in self._out[transfer.source]:
            return  # its rate has changed since this was scheduled
        del self._out[transfer.source][transfer]
        del self._in[transfer.target][transfer]
        self._share(now, transfer)
        transfer.done(now)
