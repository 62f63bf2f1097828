"""Round-robin: each instance in turn."""

from __future__ import annotations

from triptych.policy.request import Request
from triptych.policy.router.base import Router


class RoundRobinRouter(Router):
    """Each in turn, whatever its load."""

    _next = 0

    def route(self, request: Request) -> int:
        target = self._next
        self._next = (target + 1) % self.targets
        return target
