"""Round-robin: each instance in turn.

Source: the default of nginx's `upstream` and of most load balancers; Vidur's round-robin global scheduler.

The requests are dealt out like cards. All instances get equally many, which balances them where requests are
alike; long and short ones are not told apart, and nobody looks at what has ended.

Example:
    >>> from triptych.policy import Request
    >>> from triptych.policy.router import RoundRobinRouter
    >>> router = RoundRobinRouter(3)
    >>> [router.route(Request(id=n, prompt_tokens=100, output_tokens=10)) for n in range(5)]
    [0, 1, 2, 0, 1]
"""

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
