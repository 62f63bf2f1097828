"""What can go wrong with a request, and how the OpenAI API words it."""

from __future__ import annotations

from typing import Any

from triptych.engine.messages import too_long

_TYPES = {
    408: "timeout_error",
    409: "conflict_error",
    500: "server_error",
    503: "overloaded_error",
    504: "timeout_error",
}
RETRY_SECONDS = 1
"""What `Retry-After` says: a queue moves on within about an iteration or two."""

_LONGEST = 1000
"""Characters of a message."""


class ApiError(Exception):
    """The answer is an error.

    Args:
        status: of HTTP.
        message: one line for the client, with the fix.
        param: the field of the request that is at fault.
        code: a word that programs can tell the error by.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        if len(message) > _LONGEST:  # it quotes what was sent
            message = f"{message[:_LONGEST]}..."
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        """The error as OpenAI writes it, as an answer or as a data event."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Beyond those of every answer."""
        headers = {}
        if self.status == 503:
            headers["retry-after"] = str(RETRY_SECONDS)
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        if self.status in (408, 413):
            headers["connection"] = "close"  # what is left of the body would be taken for the next request
        return headers


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """The request is at fault."""
    return ApiError(400, message, param=param, code=code)


def unavailable(message: str, code: str) -> ApiError:
    """Nothing is wrong with the request; there is no room or no worker for it now."""
    return ApiError(503, message, code=code)


def context_exceeded(
    context: int, prompt_tokens: int, asked: int | None = None, *, at_least: bool = False
) -> ApiError:
    """Prompt and answer do not fit the model's context.

    Args:
        context: tokens that prompt and answer may have together.
        prompt_tokens: of the prompt.
        asked: output tokens that were asked for; None: as many as there is room for.
        at_least: whether the prompt may have more tokens than that.
    """
    return invalid(
        too_long(context, prompt_tokens, asked, at_least=at_least),
        "messages" if asked is None or prompt_tokens >= context else "max_tokens",
        "context_length_exceeded",
    )
