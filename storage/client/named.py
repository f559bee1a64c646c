"""Named server: looked up again and again, because its name may lead elsewhere while the old one still answers."""

from __future__ import annotations

import asyncio
import logging
import socket

from storage.client.followed import Followed

#: Seconds between two looks. Another server is believed in when the second one finds it too.
RESOLVE_SECONDS = 5.0

_log = logging.getLogger(__name__)


class NamedServer(Followed):
    """The server that a host name leads to."""

    def __init__(self, host: str, port: int, look_seconds: float = RESOLVE_SECONDS) -> None:
        super().__init__()
        self._host, self._port = host, port
        self._look_seconds = look_seconds
        #: Where the latest connection leads, and how often in a row the name did not.
        self._reached = ""
        self._strayed = 0

    async def address(self) -> tuple[str, int]:
        """Return name and port: whoever connects looks the name up anew."""
        return self._host, self._port

    def reached(self, host: str) -> None:
        """Take note of where the name has led."""
        self._reached, self._strayed = host, 0

    async def follow(self) -> None:
        """Look the name up, for ever; a look that fails says nothing."""
        while True:
            await asyncio.sleep(self._look_seconds)
            if self._reached:
                await self._look()

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return
        if self._reached in {place[0] for *_, place in found}:
            self._strayed = 0
            return
        self._strayed += 1
        if self._strayed > 1:
            _log.warning("the store's name leads to another server now")
            self._reached, self._strayed = "", 0
            self._change()
