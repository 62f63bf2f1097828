"""Who may use a server, told from the headers alone, before anything is read or computed.

A web page in a browser on this machine can send requests to its loopback addresses. It must not be able to
spend the machine: what a page sends without asking the server first is not said to be JSON, `Origin` is its
own, and where it has the browser look up its own name as 127.0.0.1 (DNS rebinding), `Host` is that name. A
request that holds the server's key comes from someone who was given it, whatever these headers say.
"""

from __future__ import annotations

import hmac
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from triptych.engine.server.answers import encode
from triptych.engine.server.errors import ApiError
from triptych.spec.base import SpecError

OPEN = ("/health", "/ready")
"""Routes that need no key: what watches over a server asks them, and they tell nothing of what it does."""
_METHODS_WITH_BODY = ("POST", "PUT", "PATCH")


class Gate:
    """An application that answers only those who may ask.

    Args:
        app: that answers.
        key: which every request must hold, but those to `OPEN`; None: anyone may ask.
        loopback: whether the server listens to this machine alone.
    """

    def __init__(self, app: ASGIApp, *, key: str | None, loopback: bool) -> None:
        self._app = app
        self._key = key
        self._loopback = loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(scope["method"], scope["path"], Headers(scope=scope))
        except ApiError as error:
            answer = Response(encode(error.body()), error.status, error.headers(), "application/json")
            await answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _check(self, method: str, path: str, headers: Headers) -> None:
        if self._key is None or not _holds(headers, self._key):
            if self._loopback:
                _check_hosts(headers.getlist("host"))
            _check_origin(headers)
            if self._key is not None and path not in OPEN:
                problem = "the server asks for a key; send the header Authorization: Bearer KEY"
                raise ApiError(401, problem, code="invalid_api_key")
        if method in _METHODS_WITH_BODY:
            _check_type(headers.get("content-type", ""))


def check_exposure(address: str, key: str | None, *, anyone: bool) -> None:
    """Sees to it that a server is not open to others by oversight.

    Args:
        address: that it listens on.
        key: that requests must hold.
        anyone: whether it was said that anyone may use it.

    Raises:
        SpecError: it would be, or the key cannot be sent in a header.
    """
    if key is not None and not (key and all("!" <= letter <= "~" for letter in key)):
        raise SpecError("--api-key", "must be visible ASCII characters without a space; choose another")
    if key is None and not anyone and not is_loopback(address):
        problem = f"anyone who reaches {address} could use the server; set --api-key, or add --allow-anyone"
        raise SpecError("--host", problem)


def is_loopback(address: str) -> bool:
    """Whether an address, or a name, is that of this machine to itself."""
    name = address.lower().removesuffix(".")
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def _holds(headers: Headers, key: str) -> bool:
    """Whether a request holds the key; how long that takes does not depend on how much of it is right."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    return hmac.compare_digest(given.strip().encode(), key.encode()) and scheme.lower() == "bearer"


def _check_hosts(hosts: list[str]) -> None:
    for host in hosts:  # none: it is no browser
        if not is_loopback(_hostname(f"//{host}")):
            problem = f"{host[:100]!r} is not this server, which listens on loopback; ask localhost"
            raise ApiError(421, problem, code="foreign_host")


def _check_origin(headers: Headers) -> None:
    origin = headers.get("origin")
    if origin is not None and origin.lower().partition("://")[2] != headers.get("host", "").lower():
        problem = f"web pages of {origin[:100]!r} may not use this server without its key"
        raise ApiError(403, problem, code="foreign_origin")


def _check_type(content_type: str) -> None:
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/json":
        given = kind[:100] or "of unknown type"
        problem = f"the body must be JSON, not {given}; send the header Content-Type: application/json"
        raise ApiError(415, problem, code="unsupported_media_type")


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
