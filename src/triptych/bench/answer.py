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
    """The last event of the answer, with text or without, or the failure."""
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
        """As the server counts them, or else one for each event with text."""
        return self.output_tokens or self.events

    @property
    def unknown(self) -> set[str]:
        """Metrics that a finished answer has and that were not seen, since its tokens came without text."""
        if self.status is not Status.FINISHED:
            return set()
        silent_start = self.first_token != self.first_token
        several = self.generated_tokens > 1
        return {
            name
            for name, is_unknown in (
                ("ttft", silent_start),
                ("tpot", silent_start and several),
                ("itl", several and not self.later_tokens),
            )
            if is_unknown
        }

    def token(self, now: float) -> None:
        """Text has come."""
        if self.first_token == self.first_token:
            self.later_tokens.append(now)
        else:
            self.first_token = now
        self.event(now)

    def event(self, now: float) -> None:
        """Something of the answer has come: text, or a token that carries none, or its end."""
        self.status, self.end = Status.RUNNING, now

    def finish(self) -> None:
        """The answer has come to its end, which the last event told.

        Raises:
            ValueError: it holds no token; what is said is for people.
        """
        if not self.generated_tokens:
            raise ValueError("the answer has no token")
        # A single token without text came with the last event. Of several, only the last one's time is known.
        if not self.events and self.generated_tokens == 1:
            self.first_token = self.end
        self.status = Status.FINISHED

    def fail(self, error: str, now: float) -> None:
        """The server refused the request, or broke off."""
        self.status, self.error, self.end = Status.REJECTED, error, now
