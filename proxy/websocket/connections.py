"""WebSocket connections of this process: one task looks after all of them, none has a timer of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol

from aiohttp.web import AppKey

from proxy.runtime.tasks import Tasks

logger = logging.getLogger(__name__)

#: Seconds between two looks, at most.
LONGEST_WATCH_PAUSE = 1.0

#: The WebSocket connections that are open.
CONNECTIONS: AppKey[Connections] = AppKey("connections")


class Watched(Protocol):
    """A connection as it is looked after."""

    async def watch(self, now: float) -> None:
        """Do what is due at this time (monotonic seconds); never waits for the client, raises nothing."""
        ...

    def end(self) -> None:
        """Close the connection as soon as its running turns are over."""
        ...


class Connections:
    """Open connections. shortest_seconds: the shortest time that any of them measures."""

    def __init__(self, shortest_seconds: float) -> None:
        self._pause = min(shortest_seconds / 4, LONGEST_WATCH_PAUSE)
        self._open: set[Watched] = set()
        self._counted = 0

    def __len__(self) -> int:
        """How many are open, of those that count."""
        return self._counted

    @asynccontextmanager
    async def serving(self, tasks: Tasks) -> AsyncIterator[Connections]:
        """Look after the connections for as long as the context lasts."""
        async with tasks.periodic("watch over WebSockets", self._pause, self._watch, logger):
            yield self

    @contextmanager
    def holding(self, connection: Watched, *, is_counted: bool = True) -> Iterator[None]:
        """Look after a connection for as long as the context lasts."""
        self._open.add(connection)
        self._counted += is_counted
        try:
            yield
        finally:
            self._open.discard(connection)
            self._counted -= is_counted

    def stop(self) -> None:
        """Close all: those without a running turn now, the others after it."""
        for connection in list(self._open):
            connection.end()

    async def _watch(self) -> None:
        now = time.monotonic()
        for connection in list(self._open):
            await connection.watch(now)
