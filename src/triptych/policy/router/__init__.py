"""Routers: which instance gets a request. One policy a file."""

from triptych.policy.router.base import Router
from triptych.policy.router.least_requests import LeastRequestsRouter
from triptych.policy.router.least_tokens import LeastTokensRouter
from triptych.policy.router.prefix_affinity import PrefixAffinityRouter
from triptych.policy.router.random import RandomRouter
from triptych.policy.router.round_robin import RoundRobinRouter

ROUTERS: dict[str, type[Router]] = {
    "random": RandomRouter,
    "round-robin": RoundRobinRouter,
    "least-requests": LeastRequestsRouter,
    "least-tokens": LeastTokensRouter,
    "prefix-affinity": PrefixAffinityRouter,
}
"""Policies by the name that a deployment gives them."""

__all__ = [
    "ROUTERS",
    "LeastRequestsRouter",
    "LeastTokensRouter",
    "PrefixAffinityRouter",
    "RandomRouter",
    "RoundRobinRouter",
    "Router",
]
