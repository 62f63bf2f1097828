"""The server that is driven, as its user names it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from triptych.spec.base import SpecError

Api = Literal["completions", "chat"]


@dataclass(frozen=True)
class Server:
    """Any server with the OpenAI API.

    Raises:
        SpecError: the URL is none, or a number is out of its range.
    """

    url: str
    """Up to and with `/v1`."""
    model: str | None = None
    """None: the only one that is served, under its first name."""
    api: Api | None = None
    """`/completions` or `/chat/completions`; None: chat if the workload has images."""
    tokenizer: Path | None = None
    """Folder with the model's `tokenizer.json`. With it, or with chat, prompts are sent as text; else as
    token ids."""
    ignore_eos: bool = True
    """Ask for outputs of exactly the declared length (`ignore_eos`, `min_tokens`), which is no field of
    OpenAI's own."""
    retries: int = 0
    """Times a request is sent again when it is refused with status 429 or 503."""
    api_key: str | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            problem = f"{self.url!r} is no address; write it like http://127.0.0.1:8000/v1"
            raise SpecError("--url", problem)
        if self.retries < 0:
            raise SpecError("--retries", f"must be 0 or more, not {self.retries}")

    @property
    def base(self) -> str:
        """The URL that paths are appended to."""
        return self.url.rstrip("/")

    @property
    def lacks_path(self) -> bool:
        """Whether the URL ends with the host, as few do."""
        return urlsplit(self.url).path in ("", "/")
