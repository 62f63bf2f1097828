"""Images as requests name them: `data:` URLs, and http(s) URLs of hosts that the operator trusts.

An address that a client may choose freely makes the server a way into the network behind it. So hosts must be
on a list, redirects are not followed, a name must lead to public addresses (an address or `localhost` may be
listed as such), and the connection goes to the very address that was checked.
"""

from __future__ import annotations

import asyncio
import binascii
import socket
from collections.abc import Sequence
from ipaddress import IPv6Address, IPv6Network, ip_address
from urllib.parse import SplitResult, urlsplit

import httpx

from triptych.engine.server.errors import ApiError, invalid

FETCH_SECONDS = 10.0
"""For one image, from the look-up of its host to the last byte."""
_PORTS = {"http": 80, "https": 443}
_NAT64 = IPv6Network("64:ff9b::/96")
"""IPv4 addresses as networks of IPv6 alone reach them (RFC 6052)."""
_SHOWN = 80


class ImageSource:
    """Gets the bytes of images.

    Args:
        hosts: `name`, or `name:port` where the port is not the scheme's own; none: no http(s) URLs.
        max_bytes: of one image.
        seconds: for one image.
    """

    def __init__(self, hosts: Sequence[str], *, max_bytes: int, seconds: float = FETCH_SECONDS) -> None:
        self._hosts = {host.lower() for host in hosts}
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._client: httpx.AsyncClient | None = None

    async def close(self) -> None:
        """Closes its connections."""
        if self._client is not None:
            await self._client.aclose()

    async def get(self, url: str) -> bytes:
        """The file behind an http(s) URL.

        Raises:
            ApiError: status 400: it may not be fetched, or cannot.
        """
        shown = url if len(url) <= _SHOWN else f"{url[:_SHOWN]}..."
        try:
            async with asyncio.timeout(self._seconds):
                return await self._get(url)
        except ApiError:
            raise
        except (TimeoutError, httpx.TimeoutException):
            raise _refused(f"image {shown} did not come within {self._seconds:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise _refused(f"image {shown} cannot be fetched: {error or type(error).__name__}") from None

    async def _get(self, url: str) -> bytes:
        parts, host, port = self._allowed(url)
        address = await self._address(host, port)
        if self._client is None:
            self._client = httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=self._seconds)
        pinned = parts._replace(netloc=f"[{address}]:{port}" if ":" in address else f"{address}:{port}")
        name = host if port == _PORTS[parts.scheme] else f"{host}:{port}"
        async with self._client.stream(
            "GET",
            pinned.geturl(),
            headers={"host": name, "accept": "image/*", "accept-encoding": "identity"},
            extensions={"sni_hostname": host},
        ) as answer:
            if answer.status_code != httpx.codes.OK:
                raise _refused(f"image at {host} answered with status {answer.status_code}")
            data = bytearray()
            async for piece in answer.aiter_raw():
                data += piece
                if len(data) > self._max_bytes:
                    raise _refused(f"image at {host} is larger than {self._max_bytes:,} bytes")
            return bytes(data)

    def _allowed(self, url: str) -> tuple[SplitResult, str, int]:
        """The parts of a URL, if it may be fetched."""
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").lower(), parts.port
        except ValueError:
            raise _refused("image_url is no URL") from None
        if parts.scheme not in _PORTS or not host:
            raise _refused("image_url must be a data: URL, or an http(s) URL of a host that is allowed")
        if parts.username or parts.password:
            raise _refused("image_url must hold no user name or password")
        usual = _PORTS[parts.scheme]
        entry = host if port in (None, usual) else f"{host}:{port}"
        if entry not in self._hosts and f"{host}:{port or usual}" not in self._hosts:
            raise _refused(
                f"images of {entry} are not fetched; send a data: URL, or start the server with "
                f"--allow-image-url {entry}"
            )
        return parts, host, port or usual

    async def _address(self, host: str, port: int) -> str:
        """Where to connect to."""
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [str(entry[4][0]) for entry in found]
        if not _is_address(host) and host != "localhost":
            for address in addresses:
                if not _is_public(address):
                    raise _refused(f"{host} leads to a private address; allow the address itself")
        return addresses[0]


def read_data_url(url: str) -> bytes:
    """The file in a `data:` URL.

    Raises:
        ApiError: status 400: it is not base64.
    """
    head, comma, data = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise _refused("a data: URL must read data:image/jpeg;base64,... with the image in base64")
    try:
        return binascii.a2b_base64(data, strict_mode=True)
    except ValueError as error:  # also text that is not ASCII
        raise _refused(f"the image in a data: URL is not base64: {error}") from None


def _is_public(address: str) -> bool:
    """Whether an address is one of the internet, and none that stands for an IPv4 address, private or not."""
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address) and (parsed.sixtofour or parsed.teredo or parsed in _NAT64):
        return False
    return parsed.is_global and not parsed.is_multicast


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _refused(message: str) -> ApiError:
    return invalid(message, "messages", "invalid_image")
