"""The least loaded instance, found in logarithmic time for any number of instances."""

from __future__ import annotations

from abc import abstractmethod
from heapq import heapify, heappop, heappush

from triptych.policy.request import Request
from triptych.policy.router.base import Router


class LeastLoadedRouter(Router):
    """Base of the policies that send a request where the least is outstanding; ties go to the lowest number.

    Every change of a load pushes a new entry; entries that no longer tell the truth are dropped when they
    come up, and the heap is rebuilt when most of it is stale.
    """

    def __init__(self, targets: int, *, seed: int = 0, block_size: int = 16) -> None:
        super().__init__(targets, seed=seed, block_size=block_size)
        self.loads = [0] * targets
        self._heap = [(0, target) for target in range(targets)]
        self._charged: dict[Request, int] = {}

    @abstractmethod
    def weigh(self, request: Request) -> int:
        """How much the request adds to an instance's load."""

    def route(self, request: Request) -> int:
        return self.assign(request, self.least())

    def least(self) -> int:
        """The instance with the least load, of equals the first."""
        heap, loads = self._heap, self.loads
        while heap[0][0] != loads[heap[0][1]]:
            heappop(heap)
        return heap[0][1]

    def assign(self, request: Request, target: int) -> int:
        """Counts the request towards an instance, whoever chose it; returns the instance."""
        weight = self._charged[request] = self.weigh(request)
        self._load(target, weight)
        return target

    def done(self, request: Request, target: int) -> None:
        self._load(target, -self._charged.pop(request))

    def _load(self, target: int, change: int) -> None:
        self.loads[target] = load = self.loads[target] + change
        heappush(self._heap, (load, target))
        if len(self._heap) > 64 + 4 * self.targets:
            self._heap = [(load, target) for target, load in enumerate(self.loads)]
            heapify(self._heap)
