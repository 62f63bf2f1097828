"""What every router is: it picks one of several equal instances and is told when work leaves."""

from __future__ import annotations

from abc import ABC, abstractmethod

from triptych.policy.request import Phase, Request


class Router(ABC):
    """Spreads the requests of one phase over `targets` instances, numbered from 0.

    A router sees what a front end sees: prompt, images, phase; never how long the answer will be.

    Args:
        targets: number of instances.
        seed: of the policies that draw lots.
        block_size: tokens in each of a request's hashed blocks, for the policies that look at them.
    """

    def __init__(self, targets: int, *, seed: int = 0, block_size: int = 16) -> None:
        self.targets = targets
        self.seed = seed
        self.block_size = block_size

    @abstractmethod
    def route(self, request: Request) -> int:
        """The instance for the request, which counts as its work until `done` is called."""

    def done(self, request: Request, target: int) -> None:  # noqa: B027 - most policies keep no account
        """Says that the request has left the instance that `route` gave it to."""


def work(request: Request) -> int:
    """Known work of the request's phase: patches to encode, else tokens of prompt or context."""
    if request.phase is Phase.ENCODE:
        return sum(image.patches for image in request.images)
    return request.prefill_tokens
