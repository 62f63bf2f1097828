"""The state of a server that its routes share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from triptych.engine.server.body import Bodies
from triptych.engine.server.client import Client
from triptych.engine.server.errors import ApiError, unavailable
from triptych.engine.server.metrics import Metrics
from triptych.engine.server.pool import Pool
from triptych.engine.server.prompts import Prompts

_SHOWN = 100
"""Characters of a wrong name that an error shows."""


class Queue:
    """Counts answers that have no token yet, from when the body of their request has come.

    Args:
        limit: how many there may be.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.length = 0

    def check(self, answers: int) -> None:
        """Sees to it that there are places.

        Raises:
            ApiError: status 503: there are not enough.
        """
        if self.length + answers > self.limit:
            raise unavailable(f"the queue of {self.limit} requests is full; try again", "server_overloaded")

    def enter(self, answers: int) -> None:
        """Takes places; raises as `check`."""
        self.check(answers)
        self.length += answers

    def leave(self, answers: int) -> None:
        """Gives places back."""
        self.length -= answers


@dataclass
class Front:
    """Everything that answers a request."""

    models: tuple[str, ...]
    """Names that the model goes by; the first is the one that is shown."""
    created: int
    """When the server started, in seconds since 1970."""
    client: Client
    prompts: Prompts
    pool: Pool
    """Threads for what takes long."""
    bodies: Bodies
    queue: Queue
    metrics: Metrics
    request_timeout: float
    """Seconds."""

    def __post_init__(self) -> None:
        self.draining = False
        self._ids: set[str] = set()

    @property
    def in_flight(self) -> int:
        """Requests that are being answered."""
        return len(self._ids)

    def not_ready(self) -> str | None:
        """Why no worker would take a request at once."""
        if self.draining:
            return "the server is stopping"
        if self.client.ready is None or not self.prompts.loaded:
            return "the model is being loaded"
        if not self.client.connected:
            return "the worker is being restarted"
        if self.client.stalled:
            return "the worker has said nothing for longer than an iteration takes"
        return None

    def check_loaded(self) -> int:
        """Tokens of prompt and answer together that a request may have.

        Raises:
            ApiError: status 503: there was no worker yet to say so.
        """
        if self.client.ready is None or not self.prompts.loaded:
            raise unavailable("the model is being loaded; try again", "server_not_ready")
        return self.client.ready.max_context

    def check_open(self) -> None:
        """Sees to it that a request would be admitted, before its body is read.

        Raises:
            ApiError: status 503: the server is stopping or not ready yet, or its queue is full.
        """
        if self.draining:
            raise unavailable("the server is stopping", "server_stopping")
        self.queue.check(1)
        self.check_loaded()

    @contextmanager
    def admitted(self, id: str) -> Iterator[None]:
        """While a request is answered, from when its body has come.

        Raises:
            ApiError: as `check_open`; status 409: another request of this id is being answered.
        """
        self.check_open()
        if id in self._ids:
            raise ApiError(409, f"a request with the id {id} is under way", code="duplicate_request_id")
        self._ids.add(id)
        self.metrics.in_flight.inc()
        try:
            yield
        finally:
            self._ids.discard(id)
            self.metrics.in_flight.dec()

    def check_model(self, name: str | None) -> str:
        """The model's name as the request has it.

        Raises:
            ApiError: status 404: it is not served here.
        """
        if name is not None and name not in self.models:
            message = f"the model {name[:_SHOWN]!r} is not served here; use {self.models[0]!r}"
            raise ApiError(404, message, param="model", code="model_not_found")
        return name or self.models[0]
