"""Least outstanding requests: the instance with the fewest that have not left it.

Source: `least_conn` of nginx; Vidur's LOR (least outstanding requests) global scheduler.

A request counts from when it is sent until it leaves the instance, whatever its length. So an instance that
is slow, or has had long requests, gets fewer new ones. Ties go to the lowest number.

Example:
    >>> from triptych.policy import Request
    >>> from triptych.policy.router import LeastRequestsRouter
    >>> router = LeastRequestsRouter(2)
    >>> a, b, c = (Request(id=n, prompt_tokens=100, output_tokens=10) for n in range(3))
    >>> router.route(a), router.route(b)
    (0, 1)
    >>> router.done(b, 1)
    >>> router.route(c)  # one is on 0, none on 1
    1
"""

from __future__ import annotations

from triptych.policy.request import Request
from triptych.policy.router.least_loaded import LeastLoadedRouter


class LeastRequestsRouter(LeastLoadedRouter):
    """Every request weighs the same."""

    def weigh(self, request: Request) -> int:
        return 1
