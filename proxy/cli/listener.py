"""Listener: accepts connections for all workers, and passes each on to the one that it is told.

Workers that accept from one socket by themselves share badly: whoever wakes first takes all that wait, and clients
keep their connections (of 100 opened at once one of two workers got anything between 6 and 99). With a socket each
(SO_REUSEPORT) chance decides, and what waits at the socket of a worker that dies or leaves is reset. Passed on, each
gets its share, nothing is ever reset, and those that come while there is no worker wait for the next one.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

#: Connections that may wait to be accepted.
BACKLOG = 1024
#: Connections that are accepted before anything else has its turn.
ACCEPTED_AT_ONCE = 64
#: Seconds until the next attempt while nobody takes a connection, or none can be accepted.
UNTAKEN_PAUSE = 0.05
TROUBLED_PAUSE = 1.0

logger = logging.getLogger(__name__)


class Listener:
    """The sockets that are listened on. pass_on: gives a connection to a worker, and returns whether one took it."""

    def __init__(self, sockets: list[socket.socket], pass_on: Callable[[socket.socket], bool]) -> None:
        self._sockets = sockets
        self._pass_on = pass_on
        self._held: list[socket.socket] = []
        self._retry: asyncio.TimerHandle | None = None
        self._resume()

    @classmethod
    async def open(cls, host: str, port: int, pass_on: Callable[[socket.socket], bool]) -> Listener:
        """Listen on every address of `host`. Raises OSError."""
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        sockets: list[socket.socket] = []
        try:
            for family, _, _, _, address in dict.fromkeys(found):
                sockets.append(_listen(family, address))
        except OSError:
            for each in sockets:
                each.close()
            raise
        return cls(sockets, pass_on)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the first socket."""
        host, port = self._sockets[0].getsockname()[:2]
        return host, port

    def close(self) -> None:
        """Listen no more; what nobody took is closed. Repeating it does nothing."""
        self._pause(None)
        for each in (*self._sockets, *self._held):
            each.close()
        self._sockets, self._held = [], []

    def _resume(self) -> None:
        self._retry = None
        while self._held:
            if not self._pass_on(self._held[0]):
                self._pause(UNTAKEN_PAUSE)
                return
            self._held.pop(0).close()
        for each in self._sockets:
            asyncio.get_running_loop().add_reader(each, self._accept, each)

    def _pause(self, seconds: float | None) -> None:
        """Accept nothing for so long; None: never again."""
        loop = asyncio.get_running_loop()
        for each in self._sockets:
            loop.remove_reader(each)
        if self._retry is not None:
            self._retry.cancel()
        self._retry = loop.call_later(seconds, self._resume) if seconds is not None else None

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                connection, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:
                # the system has no descriptor or no memory for one more
                logger.warning("no connection can be accepted: %s", exc.strerror)
                self._pause(TROUBLED_PAUSE)
                return
            if not self._pass_on(connection):
                self._held.append(connection)
                self._pause(UNTAKEN_PAUSE)
                return
            connection.close()


def _listen(family: int, address: tuple[object, ...]) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # IPv4 has a socket of its own
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
        listening.settimeout(0)
    except OSError:
        listening.close()
        raise
    return listening
