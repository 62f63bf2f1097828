"""Random: every instance with the same chance. What a load balancer without state does."""

from __future__ import annotations

from random import Random

from triptych.policy.request import Request
from triptych.policy.router.base import Router


class RandomRouter(Router):
    """Draws lots; a seed makes it repeat."""

    def __init__(self, targets: int, *, seed: int = 0) -> None:
        super().__init__(targets, seed=seed)
        self._random = Random(seed)

    def route(self, request: Request) -> int:
        return self._random.randrange(self.targets)
