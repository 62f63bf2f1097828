"""Random: every instance with the same chance.

Source: the baseline of Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE TPDS 2001.

A lot is drawn for each request, and nothing is remembered. It is what a load balancer without state does, and
what a better policy is measured against: by chance some instances queue while others idle.

Example:
    >>> from triptych.policy import Request
    >>> from triptych.policy.router import RandomRouter
    >>> requests = [Request(id=n, prompt_tokens=100, output_tokens=10) for n in range(50)]
    >>> first, second = RandomRouter(2, seed=7), RandomRouter(2, seed=7)
    >>> picks = [first.route(request) for request in requests]
    >>> sorted(set(picks))  # all of fifty lots alike: once in 2**49 seeds
    [0, 1]
    >>> picks == [second.route(request) for request in requests]  # a seed repeats its lots
    True
"""

from __future__ import annotations

from random import Random

from triptych.policy.request import Request
from triptych.policy.router.base import Router


class RandomRouter(Router):
    """Draws lots; a seed makes it repeat."""

    def __init__(self, targets: int, *, seed: int = 0, block_size: int = 16) -> None:
        super().__init__(targets, seed=seed, block_size=block_size)
        self._random = Random(seed)

    def route(self, request: Request) -> int:
        return self._random.randrange(self.targets)
