"""Dialer: connections made to one origin, at whichever of its addresses answers first, and TLS for `https`."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING, Any, TypeVar

import aiohappyeyeballs
import aiohttp
from aiohttp.client_reqrep import ConnectionKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohappyeyeballs import AddrInfoType
    from yarl import URL

#: Seconds that the addresses of a host are remembered, and that one of them may take before the next is tried as well.
ADDRESS_SECONDS = 10.0
NEXT_ADDRESS_SECONDS = 0.25

#: What aiohttp calls a connection that can't be made.
_FAILURES: tuple[tuple[type[OSError], type[aiohttp.ClientConnectorError]], ...] = (
    (ssl.CertificateError, aiohttp.ClientConnectorCertificateError),
    (ssl.SSLError, aiohttp.ClientConnectorSSLError),
    (socket.gaierror, aiohttp.ClientConnectorDNSError),
    (OSError, aiohttp.ClientConnectorError),
)

ProtocolT = TypeVar("ProtocolT", bound=asyncio.Protocol)


class OriginDialer:
    """Makes connections to the origin of a URL; TLS checks certificate and name as aiohttp's client does."""

    def __init__(self, url: URL) -> None:
        self._host = (url.raw_host or "").rstrip(".")
        self._port = url.port or 80
        self._tls: ssl.SSLContext | None = None
        if url.scheme == "https":
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        self._known = _numeric(self._host, self._port)
        self._asked: asyncio.Future[Any] | None = None
        self._asked_at = 0.0
        self._dialled = 0

    async def dial(self, create_protocol: Callable[[], ProtocolT]) -> ProtocolT:
        """Return the protocol of a new connection. Raises aiohttp.ClientConnectorError."""
        loop = asyncio.get_running_loop()
        name = self._host if self._tls else None
        try:
            sock = await aiohappyeyeballs.start_connection(
                await self._addresses(), happy_eyeballs_delay=NEXT_ADDRESS_SECONDS, interleave=1, loop=loop
            )
            _, protocol = await loop.create_connection(create_protocol, sock=sock, ssl=self._tls, server_hostname=name)
        except OSError as error:
            key = ConnectionKey(self._host, self._port, bool(self._tls), True, None, None, None)  # noqa: FBT003
            raise next(ours for theirs, ours in _FAILURES if isinstance(error, theirs))(key, error) from error
        return protocol

    def close(self) -> None:
        """Ask for addresses no more."""
        if self._asked is not None:
            self._asked.cancel()

    async def _addresses(self) -> list[AddrInfoType]:
        """Return the host's addresses, beginning with another one each time; who asks meanwhile gets the same."""
        loop = asyncio.get_running_loop()
        if self._known:
            return self._known
        asked = self._asked
        if asked is not None and asked.done() and (asked.cancelled() or asked.exception()):
            asked = None
        if asked is None or (asked.done() and loop.time() - self._asked_at > ADDRESS_SECONDS):
            answer = loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            asked = self._asked = asyncio.ensure_future(answer)
            self._asked_at = loop.time()
        # another request waits for it too, so that it goes on when this one is cancelled
        found = await asyncio.shield(asked)
        first = self._dialled % len(found)
        self._dialled += 1
        return [*found[first:], *found[:first]]


def _numeric(host: str, port: int) -> list[AddrInfoType]:
    """Return the address that a host is itself; none for a name."""
    try:
        return [*socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)]
    except socket.gaierror:
        return []
