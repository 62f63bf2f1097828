"""Least outstanding tokens: requests weigh what is known of their work.

That is the patches of its images in the encode phase, the prompt in prefill, the context in decode.
"""

from __future__ import annotations

from triptych.policy.request import Request
from triptych.policy.router.base import work
from triptych.policy.router.least_loaded import LeastLoadedRouter


class LeastTokensRouter(LeastLoadedRouter):
    """A long prompt weighs more than a short one."""

    def weigh(self, request: Request) -> int:
        return work(request)
