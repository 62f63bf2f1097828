"""What a client sees of one request."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from math import nan

from triptych.policy import Status


@dataclass(slots=True)
class Answer:
    """What came of one request. Times are readings of the monotonic clock, NaN where nothing happened."""

    sent: float = nan
    first_token: float = nan
    later_tokens: array[float] = field(default_factory=lambda: array("d"))
    """When each further event with text came; several tokens may come in one."""
    end: float = nan
    """The last event with text, or the failure."""
    status: Status = Status.WAITING
    http_status: int = 0
    """0: there was no answer."""
    error: str = ""
    prompt_tokens: int | None = None
    """As the server counts them; None: it did not say."""
    output_tokens: int | None = None
    cached_tokens: int = 0

    @property
    def events(self) -> int:
        """Events with text."""
        return 0 if self.first_token != self.first_token else 1 + len(self.later_tokens)

    @property
    def generated_tokens(self) -> int:
        """As the server counts them, or else one an event."""
        return self.events if self.output_tokens is None else self.output_tokens

    def token(self, now: float) -> None:
        """Text has come."""
        if self.first_token == self.first_token:
            self.later_tokens.append(now)
        else:
            self.first_token = now
            self.status = Status.RUNNING
        self.end = now

    def fail(self, error: str, now: float) -> None:
        """The server refused the request, or broke off."""
        self.status, self.error, self.end = Status.REJECTED, error, now
