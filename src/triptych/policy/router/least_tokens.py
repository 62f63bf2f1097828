"""Least outstanding tokens: the instance with the least known work that has not left it.

Source: least work left, of queueing theory (Harchol-Balter, "Performance Modeling and Design of Computer
Systems", 2013, chapter 24), with tokens for work.

A request weighs what is known of its work: the patches of its images in the encode phase, the prompt in
prefill, the context in decode. The weight counts until the request leaves the instance, so one long prompt
counts as much as many short ones. Ties go to the lowest number.

Example:
    >>> from triptych.policy import Request
    >>> from triptych.policy.router import LeastTokensRouter
    >>> router = LeastTokensRouter(2)
    >>> def ask(prompt_tokens):
    ...     return router.route(Request(0, prompt_tokens, output_tokens=10))
    >>> ask(100), ask(60), ask(30)
    (0, 1, 1)
    >>> ask(5)  # 100 tokens are on 0, 90 on 1
    1
"""

from __future__ import annotations

from triptych.policy.request import Request
from triptych.policy.router.base import work
from triptych.policy.router.least_loaded import LeastLoadedRouter


class LeastTokensRouter(LeastLoadedRouter):
    """A long prompt weighs more than a short one."""

    def weigh(self, request: Request) -> int:
        return work(request)
