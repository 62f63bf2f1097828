"""Least outstanding requests: the instance with the fewest that have not left it."""

from __future__ import annotations

from triptych.policy.request import Request
from triptych.policy.router.least_loaded import LeastLoadedRouter


class LeastRequestsRouter(LeastLoadedRouter):
    """Every request weighs the same."""

    def weigh(self, request: Request) -> int:
        return 1
